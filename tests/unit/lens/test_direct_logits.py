"""Direct logit attribution against sums written out in numpy, from a model's own weights."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.errors import ArchitectureError, KindError, MissingSiteError, ShapeError, UnknownNameError

KINDS = ("part", "head", "neuron")
BATCH = mx.array([[11, 48, 85, 26, 63, 4], [5, 9, 2, 77, 31, 60]])
SITES = ("embed", "resid_post", "attn_out", "mlp_out", "z", "mlp_post", "pattern", "v")


def as_numpy(array):
    return np.array(array.astype(mx.float32)).astype(np.float64)


def of_llama(model, tokens, answer, foil):
    """Activations and the direction that reads the difference of two logits off the last stream, in float64."""
    _, cache = model.run_with_cache(tokens, SITES)
    arrays = {site: as_numpy(cache[site]) for site in cache}
    stream = arrays[mp.Site("resid_post", model.n_layers - 1)][:, -1]
    norm = model.model.model.norm
    scale = 1 / np.sqrt((stream**2).mean(axis=-1, keepdims=True) + norm.eps)
    rows = as_numpy(model.model.lm_head.weight)
    return arrays, scale * as_numpy(norm.weight) * (rows[answer] - rows[foil])


def test_parts_are_those_of_the_formula(tiny):
    arrays, direction = of_llama(tiny(), BATCH, 7, 30)
    found = mp.lens.direct_logits(tiny(), BATCH, 7, 30)
    for part, values in zip(found.coords["part"], found.values, strict=True):
        name, _, layer = part.partition(".")
        site = mp.Site(name.replace("mixer", "attn"), int(layer) if layer else None)
        np.testing.assert_allclose(values, (arrays[site][:, -1] * direction).sum(axis=-1), atol=1e-5)
    logits = as_numpy(tiny().run(BATCH))[:, -1]
    np.testing.assert_allclose(found.logit, logits[:, 7] - logits[:, 30], atol=1e-5)
    np.testing.assert_allclose(found.total, found.logit, atol=1e-5)


def test_heads_neurons_and_sources_are_those_of_the_formula(tiny):
    model = tiny()
    arrays, direction = of_llama(model, BATCH, 7, 30)
    by = {kind: mp.lens.direct_logits(model, BATCH, 7, 30, by=kind) for kind in ("head", "neuron", "source")}
    for layer, block in enumerate(model.model.layers):
        z = arrays[mp.Site("z", layer)][:, -1]
        n_heads, d_head = z.shape[1:]
        out = as_numpy(block.self_attn.o_proj.weight).reshape(-1, n_heads, d_head)
        heads = np.einsum("bhe,dhe,bd->hb", z, out, direction)
        np.testing.assert_allclose(by["head"].values[layer], heads, atol=1e-5)
        hidden, down = arrays[mp.Site("mlp_post", layer)][:, -1], as_numpy(block.mlp.down_proj.weight)
        np.testing.assert_allclose(by["neuron"].values[layer], (hidden * (direction @ down)).T, atol=1e-5)
        values = arrays[mp.Site("v", layer)].repeat(n_heads // model.n_kv_heads, axis=2)
        pattern = arrays[mp.Site("pattern", layer)][:, :, -1]
        sources = np.einsum("bhs,bshe,dhe,bd->sb", pattern, values, out, direction)
        np.testing.assert_allclose(by["source"].values[layer], sources, atol=1e-5)
    for found in by.values():
        np.testing.assert_allclose(found.total, found.logit, atol=1e-5)
        beside = [np.abs(array).max() for name, array in found.remainder.items() if "beside" in name]
        assert max(beside) < 1e-5


def test_tiled_values_are_read_by_every_so_many_heads(tiny):
    """plamo: query head i reads the KV head i modulo their number."""
    found = mp.lens.direct_logits(tiny("plamo"), BATCH, 7, 30, by="source")
    np.testing.assert_allclose(found.total, found.logit, atol=1e-5)
    assert np.abs(found.values).max() > 1e-3


@pytest.mark.parametrize("kind", [nn.LayerNorm, nn.RMSNorm])
def test_parts_through_a_frozen_norm_add_up(kind):
    norm, parts = kind(8), mx.random.normal((3, 2, 5, 8), key=mx.random.key(0))
    norm.weight = mx.arange(1.0, 9.0)
    frozen = mp.lens._direct_logits.frozen_norm(norm, parts.sum(axis=0), norm(parts.sum(axis=0)))
    through = sum(frozen.through(part) for part in parts)
    np.testing.assert_allclose(np.array(through), np.array(norm(parts.sum(axis=0))), atol=1e-4)


def test_one_logit_and_a_token_for_each_prompt(tiny):
    both = mp.lens.direct_logits(tiny(), BATCH, [7, 30], [30, 7])
    one = mp.lens.direct_logits(tiny(), BATCH, 7).values - mp.lens.direct_logits(tiny(), BATCH, 30).values
    np.testing.assert_allclose(both.values[:, 0], one[:, 0], atol=1e-5)
    np.testing.assert_allclose(both.values[:, 1], -one[:, 1], atol=1e-5)


def test_another_position_and_an_edited_run(tiny):
    edit = mp.Ablate("zero").at("mlp_out", layer=1)
    found = mp.lens.direct_logits(tiny(), BATCH, 7, 30, pos=2, edits=[edit])
    assert not found.values[list(found.coords["part"]).index("mlp_out.1")].any()
    logits = as_numpy(tiny().run(BATCH, edit))[:, 2]
    np.testing.assert_allclose(found.total, logits[:, 7] - logits[:, 30], atol=1e-5)
    shorter = mp.lens.direct_logits(tiny(), BATCH[:, :3], 7, 30, edits=edit)
    np.testing.assert_allclose(found.values, shorter.values, atol=1e-5)


@pytest.mark.parametrize("by", ["part", "head", "neuron", "source"])
def test_one_run_is_enough(tiny, by):
    """Counted by an edit that does nothing; to find the unembedding and to read the norm takes no block."""
    calls = []

    def count(activation, site):
        calls.append(activation.shape[1])
        return activation

    edits = [mp.Apply(count).at("attn_out", layer=0), mp.Scale(0.5).at("v", layer=1)]
    found = mp.lens.direct_logits(tiny(), BATCH, 7, 30, by=by, edits=edits)
    assert calls == [6]
    np.testing.assert_allclose(found.total, found.logit, atol=1e-5)
    beside = [array for name, array in found.remainder.items() if "beside" in name]
    assert np.abs([0, *np.ravel(beside)]).max() < 1e-5


def test_biases_are_parts_and_means_are_taken_away(tiny):
    """phi: a LayerNorm with a bias, and biases of the output projection and of the head."""
    model = tiny("phi")
    found = mp.lens.direct_logits(model, BATCH, 7, 30, by="head")
    assert {"bias of the final norm", "bias of the unembedding"} <= set(found.remainder)
    bias = as_numpy(model.model.lm_head.bias)
    np.testing.assert_allclose(found.remainder["bias of the unembedding"], bias[7] - bias[30], atol=1e-6)
    np.testing.assert_allclose(found.remainder["mixer_out beside heads"], _biases_of_attention(model), atol=1e-4)
    np.testing.assert_allclose(found.total, found.logit, atol=1e-5)


def _biases_of_attention(model):
    """What the biases of phi's output projections add to the difference of logits."""
    beside = sum(as_numpy(block.self_attn.dense.bias) for block in model.model.layers)
    assert np.abs(beside).max() > 0.01
    stream = as_numpy(model.run_with_cache(BATCH, "resid_post", pos=-1)[1]["resid_post", -1])[:, 0]
    norm, rows = model.model.model.final_layernorm, as_numpy(model.model.lm_head.weight)
    scaled = as_numpy(norm.weight) * (rows[7] - rows[30]) / np.sqrt(stream.var(axis=-1, keepdims=True) + norm.eps)
    return (scaled - scaled.mean(axis=-1, keepdims=True)) @ beside


def test_a_norm_that_takes_the_mean_away_gives_it_no_share(tiny):
    model = tiny("phi")
    _, cache = model.run_with_cache(BATCH, "embed")
    shifted = mp.lens.direct_logits(model, BATCH, 7, 30, edits=mp.Replace(cache["embed"] + 3.0).at("embed"))
    plain = mp.lens.direct_logits(model, BATCH, 7, 30)
    np.testing.assert_allclose(shifted.values, plain.values, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "by"),
    [
        *((name, by) for name in ("gemma2", "granite", "cohere") for by in KINDS),
        ("qwen3_next", "part"),
        ("qwen3_next", "head"),
    ],
)
def test_other_rules_of_the_stream(tiny, name, by):
    """Post-norms, multipliers, parallel parts, and mixers beside attention."""
    found = mp.lens.direct_logits(tiny(name), BATCH, 7, 30, by=by)
    np.testing.assert_allclose(found.total, found.logit, atol=1e-4)
    _, cache = tiny(name).run_with_cache(BATCH, "final_norm", pos=-1)
    rows = as_numpy(tiny(name).directions([7, 30]))
    expected = as_numpy(cache["final_norm"])[:, 0] @ (rows[0] - rows[1])
    np.testing.assert_allclose(found.logit, expected, atol=1e-4)


def test_heads_behind_a_post_norm_make_up_what_is_added(tiny):
    """gemma2: with the norms' scales as they are, the heads of a layer make up all that attention adds."""
    model = tiny("gemma2")
    parts = mp.lens.direct_logits(model, BATCH, 7, 30)
    heads = mp.lens.direct_logits(model, BATCH, 7, 30, by="head")
    for layer in range(model.n_layers):
        whole = parts.values[list(parts.coords["part"]).index(f"mixer_out.{layer}")]
        np.testing.assert_allclose(heads.values[layer].sum(axis=0), whole, atol=1e-4)
    assert np.abs(heads.values).max() > 1e-3


def test_layers_with_fewer_heads_have_no_number_there(tiny):
    found = mp.lens.direct_logits(tiny("openelm"), BATCH, 7, 30, by="head")
    assert np.isnan(found.values).any()
    np.testing.assert_allclose(found.total, found.logit, atol=1e-4)
    assert all(np.isfinite(value) for _, value in found.strongest(6))


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "4bit"])
def test_other_precisions(tiny, precision):
    """In half types, what is rounded on the way is beside the parts."""
    found = mp.lens.direct_logits(tiny("llama", precision), BATCH, 7, 30, by="head")
    np.testing.assert_allclose(found.total, found.logit, atol=0.05 if precision != "4bit" else 1e-4)


def test_the_strongest_parts_are_read_at_a_glance(tiny):
    found = mp.lens.direct_logits(tiny(), BATCH, 7, 30)
    (coordinates, value), *_ = found.strongest(1)
    index = list(found.coords["part"]).index(coordinates["part"])
    assert value == pytest.approx(found.mean()[index])
    assert abs(value) == np.abs(found.mean()).max()
    lines = str(found).splitlines()
    assert lines[0].startswith("logit of 7 less that of 30: ")
    assert coordinates["part"] in lines[1]
    assert repr(found) == "DirectLogits(by part: 7 parts, logit of 7 less that of 30)"


@pytest.mark.parametrize(
    ("name", "choices", "error", "message"),
    [
        ("llama", {"by": "heads"}, UnknownNameError, "Did you mean head"),
        ("llama", {"pos": None}, KindError, "must be one position"),
        ("llama", {"answer": [1, 2, 3]}, ShapeError, "one for each of 2 prompts"),
        ("mixtral", {"by": "neuron"}, MissingSiteError, "experts"),
        ("mamba", {"by": "head"}, MissingSiteError, "no softmax attention"),
        ("kimi_k3", {}, MissingSiteError, "read its logits off the stream"),
        ("gemma4_text", {}, ArchitectureError, "layer_scalar"),
        ("nanbeige", {}, ArchitectureError, "between the walks"),
        ("gemma3n", {}, ArchitectureError, "norm its stream before it unembeds"),
        ("qwen3_next", {"by": "source"}, ArchitectureError, "gated"),
        ("hunyuan", {"by": "source"}, ArchitectureError, "its values are another layer's"),
        ("afmoe", {"by": "source"}, ArchitectureError, "z is not `pattern` times `v`: it is gated, normed or mixed"),
        ("iquestloopcoder", {"by": "head"}, ArchitectureError, "no module's input holds it alone"),
    ],
)
def test_what_cannot_be_taken_apart_is_refused(tiny, name, choices, error, message):
    choices = {"answer": 7, "foil": 30, **choices}
    with pytest.raises(error, match=message):
        mp.lens.direct_logits(tiny(name), BATCH, **choices)
