"""Law 13: the last layer's lens is the logits; parts sum to the logit difference, heads to what attention adds.

A third of the architectures is read in float32, one with 4-bit weights, one in bfloat16; with `EVERY_MODEL=1` each in
all three. MLX's experts do not run in bfloat16 on a CPU.
"""

import os

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.architectures import attribute_at
from mlx_patch.errors import ArchitectureError, MissingSiteError
from mlx_patch.testing import ZOO, tiny_model

RUN = [name for name in ZOO if name not in {"bitnet", "olmo"}]
NO_READ_OUT = {"kimi_k3", "deepseek_v41"}
"""The last block's stream does not decide the logits."""

NO_SUM = {"nanbeige", "talkie", "gemma4_text", "gemma4_text-experts", "gemma4", "gemma3n", "muse_spark"}
"""The stream is no sum of parts: a norm between walks, layer scalars, several streams."""

NO_HEADS = {
    "mamba": "attention",
    "mamba-falcon": "attention",
    "mamba2": "attention",
    "rwkv7": "attention",
    "nanbeige-normed-once": "alone",
    "iquestloopcoder": "alone",
}
"""Without attention, or whose blocks run several times."""

CAPPED = {"gemma2", "gear-capped", "nanochat", "recurrent_gemma", "muse_glimmer"}
"""With a cap on logits, which is no part of a sum."""

PRECISIONS = ("float32", "4bit", "bfloat16")
SOME = [
    (name, precision)
    for number, name in enumerate(RUN)
    for place, precision in enumerate(PRECISIONS)
    if os.environ.get("EVERY_MODEL") or number % 3 == place
]
ROUNDED = {"float32": 1e-5, "4bit": 1e-5, "bfloat16": 0.05}
"""What sums of parts may differ by, as a fraction of the largest part."""
BATCH = mx.array([[11, 48, 85, 26, 63, 4], [5, 9, 2, 77, 31, 60]])


@pytest.mark.parametrize(("name", "precision"), SOME)
def test_lenses_read_what_the_model_computes(name, precision):
    """Law 13."""
    model = mp.HookedModel(tiny_model(name, precision))
    if problem := error_of(model):
        assert "only supports float32" in problem  # MLX's experts on a CPU
        return
    if name in NO_READ_OUT:
        with pytest.raises(MissingSiteError, match="read its logits off the stream"):
            mp.lens.logit_lens(model, BATCH)
        return
    logits, cache = model.run_with_cache(BATCH, ("resid_post", "final_norm"))
    normed = model.final_norm(cache["resid_post", -1])
    assert mx.array_equal(normed, cache["final_norm"]).item()
    assert mx.array_equal(model.unembed(normed), logits).item()
    lens = mp.lens.logit_lens(model, BATCH)
    assert mx.array_equal(lens.logits(("resid_post", -1)), logits).item()
    if name in NO_SUM:
        with pytest.raises(ArchitectureError):
            mp.lens.direct_logits(model, BATCH, 7, 30)
        return
    check_parts(model, logits, name, ROUNDED[precision])
    check_heads(model, name, ROUNDED[precision])


def error_of(model):
    """What the model's own code raises, if it does."""
    try:
        mx.eval(model.model(BATCH))
    except RuntimeError as error:
        return str(error)
    return ""


def check_parts(model, logits, name, rounded=1e-5):
    """The parts, found one by one, sum to the difference of two logits."""
    found = mp.lens.direct_logits(model, BATCH, 7, 30)
    size = np.abs(found.values).max()
    np.testing.assert_allclose(found.total, found.logit, atol=rounded * size)
    assert np.abs(found.remainder["rounding of the stream"]).max() < rounded * size
    if name not in CAPPED:
        last = np.array(logits[:, -1].astype(mx.float32))
        np.testing.assert_allclose(found.logit * found.scale, last[:, 7] - last[:, 30], atol=10 * rounded * size)


def check_heads(model, name, rounded):
    """The heads of a layer sum to what its attention adds, but for the bias of its projection."""
    if name in NO_HEADS:
        with pytest.raises((ArchitectureError, MissingSiteError), match=NO_HEADS[name]):
            mp.lens.direct_logits(model, BATCH, 7, 30, by="head")
        return
    heads = mp.lens.direct_logits(model, BATCH, 7, 30, by="head")
    parts = mp.lens.direct_logits(model, BATCH, 7, 30)
    size = np.abs(parts.values).max()
    for number, layer in enumerate(heads.coords["layer"]):
        place = model.layout.place(mp.Site("z", layer))
        is_alone = "mixer_out" not in model.layout.points[layer] or same_place(model, layer)
        if "bias" in place.module or not is_alone:
            continue
        part = "mixer_out" if "mixer_out" in model.layout.points[layer] else "attn_out"
        whole = parts.values[parts.coords["part"].index(f"{part}.{layer}")]
        np.testing.assert_allclose(np.nansum(heads.values[number], axis=0), whole, atol=2 * rounded * size)


def same_place(model, layer):
    """Whether a layer's mixer is its attention alone."""
    points = model.layout.points[layer]
    return "attn_out" in points and points["mixer_out"] == points["attn_out"]


def test_a_seeded_fault_is_seen(monkeypatch):
    """A norm's gain that is left out, as TransformerLens 4.3 does with weights that are not folded."""
    model = mp.HookedModel(tiny_model("llama"))
    norm = attribute_at(model.model, "model.norm")
    norm.weight = norm.weight * (1 + 0.5 * mx.sin(mx.arange(norm.weight.size)))
    check_parts(model, model.run(BATCH), "llama")
    back = mp.lens._frozen_norm.FrozenNorm.back

    def without_gain(self, direction):
        return back(self, direction / self.gain)

    monkeypatch.setattr("mlx_patch.lens._frozen_norm.FrozenNorm.back", without_gain)
    with pytest.raises(AssertionError):
        check_parts(model, model.run(BATCH), "llama")


def test_a_model_that_rounds_has_no_jacobian_lens():
    """It rounds keys and values to 8 bits, as `mp.attribute` says too. A tuned lens needs no gradient of its blocks."""
    model = mp.HookedModel(tiny_model("afm7"))
    with pytest.raises(ArchitectureError, match="rounded to 8 bits"):
        mp.lens.fit_jacobian_lens(model, [[5, 9, 2], [4, 8, 1]], rows=64, held_out=0.5)
    tuned = mp.lens.fit_tuned_lens(model, [[5, 9, 2], [4, 8, 1]], steps=1, held_out=0.5)
    assert all(np.isfinite(list(tuned.fit.after.values())))


NO_GRADIENT = {"afm7", "recurrent_gemma", *NO_READ_OUT}
DIFFERENTIABLE = [name for name in RUN if name not in NO_GRADIENT]
PROMPT = [11, 48, 85, 26]


@pytest.mark.parametrize("name", DIFFERENTIABLE if os.environ.get("EVERY_MODEL") else DIFFERENTIABLE[::20])
def test_a_jacobian_lens_is_the_derivative_of_runs(name):
    """A short step at each position, and what it changes from there on; longer ones may switch experts."""
    model = mp.HookedModel(tiny_model(name))
    jacobian = mp.lens.fit_jacobian_lens(model, [PROMPT, PROMPT], rows=64, held_out=0.5)
    site, last = jacobian.sites[-1], mp.Site("resid_post", model.n_layers - 1)
    matrix = np.array(jacobian.matrices[site])
    direction = np.random.default_rng(0).normal(size=matrix.shape[1]).astype(np.float32)
    size = 1e-3 * np.abs(np.array(model.run_with_cache([PROMPT], (site,))[1][site])).mean()

    def summed(position, sign):
        edit = mp.Add(mx.array(direction), scale=sign * float(size)).at(site.name, layer=site.layer, pos=position)
        return np.array(model.run_with_cache([PROMPT], (last,), edit)[1][last])[0].astype(np.float64).sum(axis=0)

    slopes = [(summed(position, 1) - summed(position, -1)) / (2 * size) for position in range(1, 4)]
    expected = np.mean(slopes, axis=0)
    np.testing.assert_allclose(matrix @ direction, expected, atol=0.02 * np.abs(expected).max())
