"""Strengths that are arrays: one differentiates by them through a run, and gets what numbers give."""

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.errors import KindError, ShapeError, ValueRefusedError

LAST = {"layer": 1, "pos": -1}
NOUNS = {
    "scale": lambda model, s: mp.Scale(s),
    "add": lambda model, s: mp.Add(mx.arange(model.d_model) / 100.0, scale=s),
    "interpolate": lambda model, s: mp.Interpolate(donor(model), s),
    "chain": lambda model, s: mp.Scale(s) | mp.Clamp(-100.0, 100.0),
}


def donor(model):
    return model.run_with_cache([[5, 6, 7, 8]])[1]


def by_run(model, tokens, noun):
    edits = lambda s: [NOUNS[noun](model, s).at("resid_post", **LAST)]  # noqa: E731
    return lambda s: model.run(tokens, edits(s), logits_at=-1)[0, -1, 3]


def by_editing(model, tokens, noun):
    def logit(s):
        with model.editing(NOUNS[noun](model, s).at("resid_post", **LAST)):
            return model.model(mx.array(tokens))[0, -1, 3]

    return logit


@pytest.mark.parametrize("noun", NOUNS)
@pytest.mark.parametrize("run", [by_run, by_editing])
@pytest.mark.parametrize("strength", [0.4, 1.0])  # at 0 the norm behind it has no slope
def test_the_gradient_is_the_slope(tiny, noun, run, strength):
    logit, step = run(tiny(), [[1, 2, 3, 4]], noun), 1e-2
    slope = (float(logit(strength + step)) - float(logit(strength - step))) / (2 * step)
    value, gradient = mx.value_and_grad(logit)(mx.array(strength))
    assert abs(slope) > 1e-3
    assert float(gradient) == pytest.approx(slope, rel=2e-2, abs=1e-3)
    assert float(value) == pytest.approx(float(logit(strength)), abs=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "4bit"])
def test_half_types_and_quantised_models_have_a_gradient(tiny, precision):
    gradient = mx.grad(by_run(tiny("llama", precision), [[1, 2, 3, 4]], "scale"))(mx.array(0.5))
    exact = mx.grad(by_run(tiny(), [[1, 2, 3, 4]], "scale"))(mx.array(0.5))
    assert gradient.dtype == mx.float32
    assert abs(float(gradient)) > 1e-3
    if precision != "4bit":
        assert float(gradient) == pytest.approx(float(exact), rel=0.2, abs=0.02)


def test_two_strengths_have_each_their_own_gradient(tiny):
    model = tiny()

    def logit(strengths):
        edits = [mp.Scale(s).at("mlp_out", layer=n) for n, s in enumerate(strengths)]
        return model.run([[1, 2, 3]], edits, logits_at=-1)[0, 0, 3]

    both = mx.grad(lambda s: logit([s[0], s[1]]))(mx.array([0.5, 2.0]))
    alone = mx.grad(lambda s: logit([s, 2.0]))(mx.array(0.5))
    assert float(both[0]) == pytest.approx(float(alone), rel=1e-4)


@pytest.mark.parametrize("noun", ["scale", "add", "interpolate"])
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.int32])
def test_an_array_gives_the_numbers_of_a_number(tiny, noun, dtype):
    model = tiny()
    got, wanted = (
        model.run([[1, 2, 3, 4]], [NOUNS[noun](model, s).at("resid_post", **LAST)]) for s in (mx.array(2, dtype), 2.0)
    )
    np.testing.assert_allclose(np.array(got), np.array(wanted), atol=1e-5)
    values = [
        mp.sweep(model, [[1, 2, 3, 4]], NOUNS[noun](model, s), "resid_post", metric=mp.metrics.LogProb(3)).values
        for s in (mx.array(2, dtype), 2.0)
    ]
    np.testing.assert_allclose(*values, atol=1e-5)


def test_arrays_that_are_no_strength_are_refused(tiny):
    with pytest.raises(ShapeError, match=r"`factor` must be a number, or an array without axes\. Got shape \(1,\)"):
        mp.Scale(mx.array([2.0]))
    with pytest.raises(ValueRefusedError, match=r"`alpha` must be a finite number\. Got nan"):
        mp.Interpolate(mx.zeros(4), mx.array(float("nan")))
    with pytest.raises(KindError, match=r"`scale` must be a number\. Got an array of mlx\.core\.bool"):
        mp.Add(mx.zeros(4), scale=mx.array(True))
    with pytest.raises(ValueRefusedError, match=r"attn_scores.* for Scale\(array\(-1\)\)"):
        tiny().run([[1, 2]], [mp.Scale(mx.array(-1.0)).at("attn_scores", layer=0)])
    with pytest.raises(ValueRefusedError, match=r"attn_scores.* for Interpolate\(.*array\(2\)\)"):
        tiny().run([[1, 2]], [mp.Interpolate(mx.array(0.5), mx.array(2.0)).at("attn_scores", layer=0)])


def test_strengths_are_written_as_what_they_are():
    assert repr(mp.Scale(mx.array(0.5))) == "Scale(array(0.5))"
    assert repr(mp.Add(mx.zeros(2), scale=mx.array(1.0))) == "Add(array (2,) float32, scale=array(1))"
    seen = []
    mx.vmap(lambda s: seen.append(repr(mp.Scale(s))) or s)(mx.array([1.0, 2.0]))
    assert seen == ["Scale(array(traced))"]


def test_checkpoints_tell_strengths_apart(tiny, tmp_path):
    def swept(strength):
        chosen = {"at": "resid_post", "metric": mp.metrics.LogProb(3), "checkpoint": tmp_path / "a.npz"}
        return mp.sweep(tiny(), [[1, 2, 3]], mp.Scale(strength), **chosen)

    first = swept(mx.array(2.0))
    np.testing.assert_array_equal(swept(mx.array(2.0)).values, first.values)
    with pytest.raises(mp.errors.FileError, match="another intervention"):
        swept(mx.array(3.0))
