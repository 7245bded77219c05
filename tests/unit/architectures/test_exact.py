"""What an edit leaves alone keeps its bits, and gradients flow through it all the same."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_patch.architectures import Times, keep_bits

FACTOR = 0.22


class Block(nn.Module):
    """A block with a multiplier."""

    factor = FACTOR


def extremes(dtype):
    """Numbers that rounding, overflow or a sum would lose."""
    limits = mx.finfo(dtype)
    tiny = {mx.float16: 6e-8, mx.bfloat16: 9.2e-41, mx.float32: 1.4e-45}[dtype]
    values = [0.0, -0.0, tiny, -3 * tiny, limits.max, limits.min, np.inf, -np.inf, 1 / 3, -7.1, np.nan]
    return mx.array(values, mx.float32).astype(dtype)


def bits(array):
    return array.view({2: mx.uint16, 4: mx.uint32}[array.itemsize]).tolist()


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32], ids=str)
def test_unchanged_values_keep_their_bits_whatever_they_are(dtype):
    raw = extremes(dtype)
    computed = (raw * FACTOR) / FACTOR
    kept = keep_bits(raw, computed, mx.ones(raw.shape, mx.bool_))
    assert bits(kept) == bits(raw)
    assert bits(keep_bits(raw, computed, mx.zeros(raw.shape, mx.bool_))) == bits(computed)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32], ids=str)
@pytest.mark.parametrize("factor", [0.22, 3.0, 1e3])
def test_a_multiplier_keeps_the_bits_of_unedited_values(dtype, factor):
    raw = extremes(dtype)[:-1]
    view = Times(lambda block: factor)
    assert bits(view.write(raw, view.read(raw, Block()), Block())) == bits(raw)


def test_the_gradient_is_the_edit_s_where_nothing_changed_too():
    raw, view = mx.array([1 / 3, -7.1, 0.0]), Times("factor")

    def written(raw, delta):
        return view.write(raw, view.read(raw, Block()) + delta, Block()).sum()

    nothing, something = mx.zeros(3), mx.array([0.0, 1.0, 2.0])
    for delta in (nothing, something):
        by_raw, by_delta = mx.grad(written, argnums=(0, 1))(raw, delta)
        assert np.allclose(by_raw, 1.0, rtol=1e-6)
        assert np.allclose(by_delta, 1 / FACTOR, rtol=1e-6)


def test_a_value_replaced_by_an_equal_one_has_no_gradient():
    raw, view = mx.array([0.5, 2.0]), Times("factor")
    replacement = mx.stop_gradient(view.read(raw, Block()))
    assert mx.grad(lambda raw: view.write(raw, replacement, Block()).sum())(raw).tolist() == [0.0, 0.0]


def test_it_works_under_other_transformations():
    def twice(x):
        return keep_bits(x, 2 * x / 2, mx.array(True))

    x = mx.array([1.5, -0.0])
    for transformed in (mx.vmap(twice), mx.compile(twice), mx.checkpoint(twice)):
        assert bits(transformed(x)) == bits(x)
    (_,), (tangent,) = mx.jvp(twice, [x], [mx.ones(2)])
    assert tangent.tolist() == [1.0, 1.0]
