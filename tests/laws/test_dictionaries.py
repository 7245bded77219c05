"""Law 14: a dictionary without an edit leaves the run bit for bit: in runs, sweeps and generation, in every dtype.

One architecture in eight is run, in float32, with 4-bit weights or in bfloat16; with `EVERY_MODEL=1` each in
all three. MLX's experts do not run in bfloat16 on a CPU.
"""

import os

import mlx.core as mx
import numpy as np
import pytest
from dictionary_files import arrays_of, saelens_folder, without

import mlx_patch as mp
from mlx_patch.metrics import LogProb
from mlx_patch.testing import ZOO, tiny_model

RUN = [name for name in ZOO if name not in {"bitnet", "olmo"}]
PRECISIONS = ("float32", "4bit", "bfloat16")
SOME = [
    (name, precision)
    for number, name in enumerate(RUN)
    for place, precision in enumerate(PRECISIONS)
    if os.environ.get("EVERY_MODEL") or number % 24 == 8 * place
]
TOKENS = mx.array([[(11 + 37 * (i + 20 * row)) % 96 for i in range(7)] for row in (0, 1)])
CONFIGS = (
    {"architecture": "standard", "normalize_activations": "layer_norm"},
    {"architecture": "topk", "k": 4},
    {"architecture": "standard", "normalize_activations": "constant_norm_rescale"},
)
NOTHING = (mp.Scale(1.0), mp.Apply(lambda values, site: values), mp.Clamp(low=0.0), mp.Scale(2.0) | mp.Scale(0.5))
SITES = ("resid_post", "attn_out", "mixer_out", "mlp_out", "z")


def dictionary(folder, width, config):
    arrays = without(arrays_of(np.random.default_rng(0), width, 24), "threshold")
    return mp.dictionaries.load(saelens_folder(folder, arrays, config))


def edits_without_effect(model, folder):
    """At each site and layer that a model has with one width: some features, or all, and nothing done to them."""
    _, cache = model.run_with_cache(TOKENS, lambda site: site.name in SITES)
    loaded = {}
    for number, (site, activation) in enumerate(cache.items()):
        width = int(np.prod(activation.shape[2:]))
        key = width, number % len(CONFIGS)
        if key not in loaded:
            loaded[key] = dictionary(folder / f"{width} {number}", width, CONFIGS[key[1]])
        features = [None, [3], [5, 0, 23]][number % 3]
        yield mp.Features(loaded[key], NOTHING[number % len(NOTHING)], features).at(site)


def error_of(model):
    """What the model's own code raises, if it does."""
    try:
        mx.eval(model.model(TOKENS))
    except RuntimeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("name", "precision"), SOME)
def test_a_dictionary_without_an_edit_changes_no_bit(name, precision, tmp_path):
    model = mp.HookedModel(tiny_model(name, precision))
    if problem := error_of(model):
        assert "only supports float32" in problem  # MLX's experts on a CPU
        return
    edits = list(edits_without_effect(model, tmp_path))
    assert len(edits) >= model.n_layers
    logits = model.run(TOKENS)
    assert mx.array_equal(model.run(TOKENS, edits), logits).item()
    cell = mp.Scale(0.5).at("resid_post", layer=0, pos=2)  # a run in which something else is edited stays so too
    assert mx.array_equal(model.run(TOKENS, [cell, *edits]), model.run(TOKENS, [cell])).item()


@pytest.mark.parametrize(("name", "precision"), [("llama", "bfloat16"), ("gemma2", "4bit"), ("granite", "float32")])
def test_a_sweep_without_an_edit_changes_no_bit(name, precision, tmp_path):
    """A cell is the same number as in the sweep that scales the activation by 1, by every executor."""
    model = mp.HookedModel(tiny_model(name, precision))
    sae = dictionary(tmp_path, model.d_model, CONFIGS[0])
    for executor in ("auto", "rows", "reference"):
        places = {"at": "resid_post", "over": ("layer", "pos"), "metric": LogProb(3), "executor": executor}
        swept = mp.sweep(model, TOKENS, mp.Features(sae, mp.Scale(1.0), [1, 7]), **places)
        plain = mp.sweep(model, TOKENS, mp.Scale(1.0), **places)
        np.testing.assert_array_equal(swept.values, plain.values)
    over_features = mp.sweep(
        model, TOKENS, mp.Features(sae, mp.Scale(1.0)), "resid_post", "feature", LogProb(3), features=range(24)
    )
    assert len(np.unique(over_features.values[:, 0])) == 1


@pytest.mark.parametrize(
    ("name", "precision"),
    [("llama", "bfloat16"), ("llama-sliding", "float32"), ("gemma2", "4bit"), ("mamba2", "float32")],
)
def test_generation_without_an_edit_changes_no_bit(name, precision, word_tokenizer, tmp_path):
    model = mp.HookedModel(tiny_model(name, precision), word_tokenizer)
    edits = list(edits_without_effect(model, tmp_path))
    plain = list(model.stream(TOKENS[0], max_tokens=4))
    edited = list(model.stream(TOKENS[0], edits, max_tokens=4))
    assert [response.token for response in edited] == [response.token for response in plain]
    for before, after in zip(plain, edited, strict=True):
        assert mx.array_equal(before.logprobs, after.logprobs).item()


def test_a_whole_decoding_would_be_seen(tmp_path, monkeypatch):
    """The fault that every other library begins with: the activation is replaced by what the dictionary decodes."""
    model = mp.HookedModel(tiny_model("llama"))
    edits = list(edits_without_effect(model, tmp_path))
    call = mp.Features.__call__

    def decoded(self, own, where):
        x = self.dictionary.flat(own.reshape(*own.shape[:2], -1))
        return self.dictionary.decode(self.dictionary.encode(x), x).reshape(own.shape) + 0 * call(self, own, where)

    monkeypatch.setattr(mp.Features, "__call__", decoded)
    assert not mx.allclose(model.run(TOKENS, edits), model.run(TOKENS), atol=1e-2).item()


def test_an_error_that_rounds_would_be_seen(tmp_path, monkeypatch):
    """Error and reconstruction added anew: right up to rounding, and no longer bit for bit."""
    model = mp.HookedModel(tiny_model("llama", "bfloat16"))
    edits = list(edits_without_effect(model, tmp_path))

    def rounded(self, own, where):
        x = own.reshape(*own.shape[:2], -1)
        decoded = self.dictionary.decode(self.dictionary.encode(x), x).astype(own.dtype)
        return ((x - decoded) + decoded).reshape(own.shape)

    monkeypatch.setattr(mp.Features, "__call__", rounded)
    assert not mx.array_equal(model.run(TOKENS, edits), model.run(TOKENS)).item()
