"""What a plugin author tests: laws that hold whatever the model, on a model of a few kilobytes."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_patch_example_plugin import Margin, Turn, top_margin

import mlx_patch as mp
from mlx_patch.testing import tiny_model

PROMPT = [[11, 48, 85, 26, 63, 4, 41, 78]]


@pytest.fixture
def model():
    return mp.HookedModel(tiny_model("llama"))


@pytest.fixture
def direction(model):
    return mx.random.normal((model.d_model,), key=mx.random.key(0))


def slope(function, at, step):
    """A derivative by central differences."""
    return (function(at + step) - function(at - step)) / (2 * step)


def test_a_margin_by_hand():
    logits = mx.array([[[9.0, 0.0, 0.0], [1.0, 5.0, 3.0]], [[0.0, 0.0, 0.0], [4.0, 4.0, 0.0]]])
    assert top_margin(logits).tolist() == [2.0, 0.0]
    assert Margin(2)(logits).tolist() == [5.5, 0.0]


def test_a_margin_does_not_know_a_constant():
    logits = mx.random.normal((3, 2, 16), key=mx.random.key(1))
    assert mx.allclose(top_margin(logits + 7), top_margin(logits), atol=1e-5)


def test_a_margin_has_the_slope_of_its_values():
    logits = mx.random.normal((1, 1, 16), key=mx.random.key(1))
    change = mx.random.normal(logits.shape, key=mx.random.key(2))

    def moved(step):
        return top_margin(logits + step * change).sum()

    assert mx.grad(moved)(mx.array(0.0)).item() == pytest.approx(slope(moved, 0.0, 0.01).item(), rel=1e-3)


def test_no_turn_is_no_edit(model, direction):
    edit = Turn(direction, 0.0).at("resid_post")
    assert mx.allclose(model.run(PROMPT, [edit]), model.run(PROMPT), atol=1e-5)


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16])
def test_a_turn_keeps_lengths(direction, dtype):
    vectors = (300 * mx.random.normal((1, 4, direction.size), key=mx.random.key(1))).astype(dtype)
    edit = Turn(direction, 50.0).at("resid_post", layer=0)
    turned = edit.apply(vectors, mp.Site("resid_post", 0), mp.interventions.Span(0, 4, 4))
    lengths = [mx.linalg.norm(each.astype(mx.float32), axis=-1) for each in (vectors, turned)]
    assert mx.allclose(*lengths, rtol=1e-3)
    assert not mx.allclose(vectors, turned)


def test_a_turn_has_the_slope_of_its_runs(model, direction):
    def measured(amount):
        edit = Turn(direction, amount).at("resid_post", layer=1, pos=-1)
        return mp.metrics.LogProb(7)(model.run(PROMPT, [edit])).sum()

    assert mx.grad(measured)(mx.array(0.5)).item() == pytest.approx(slope(measured, 0.5, 0.01).item(), rel=1e-2)


@pytest.mark.parametrize("over", [("layer", "pos"), ("layer", "alpha")])
def test_a_turn_claims_no_more_than_is_true(model, direction, over):
    """`by_position`, `by_row` and `in_pieces` let a sweep share work: it must find what plain runs find."""
    ask = {"at": "resid_post", "over": over, "metric": top_margin}
    if "alpha" in over:
        ask["alphas"] = [0.5, 2.0]
    fast = mp.sweep(model, PROMPT, Turn(direction), **ask)
    plain = mp.sweep(model, PROMPT, Turn(direction), executor="reference", **ask)
    assert np.abs(fast.values - plain.values).max() < 1e-5
    assert np.ptp(plain.values) > 1e-3
