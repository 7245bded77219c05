"""Attention written out is the fused kernel's, with every kind of mask, with sinks and with a quantised cache."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_patch.engine import attend, dequantized

HEADS, KV_HEADS, LENGTH, D_HEAD = 4, 2, 5, 8
ON_CPU = mx.default_device() == mx.Device(mx.cpu)
BOOL = mx.array(np.tril(np.ones((LENGTH, LENGTH))) > 0)
MASKS = {
    "none": None,
    "causal": "causal",
    "bool": BOOL,
    "window": mx.array(np.tril(np.ones((LENGTH, LENGTH))) - np.tril(np.ones((LENGTH, LENGTH)), -3) > 0),
    "added": mx.where(BOOL, 0.0, -mx.inf),
    "bias": mx.array(np.arange(LENGTH * LENGTH, dtype=np.float32).reshape(LENGTH, LENGTH) / 7),
}


def random(*shape, dtype=mx.float32):
    return mx.random.normal(shape).astype(dtype)


def parts(dtype=mx.float32, keys=LENGTH):
    return (
        random(1, HEADS, LENGTH, D_HEAD, dtype=dtype),
        random(1, KV_HEADS, keys, D_HEAD, dtype=dtype),
        random(1, KV_HEADS, keys, D_HEAD, dtype=dtype),
    )


def untouched(event, array):
    return array


def same(got, wanted):
    """Bit for bit on the CPU, whose kernel falls back on the same operations; elsewhere but for rounding."""
    if ON_CPU:
        assert mx.array_equal(got, wanted)
    else:
        assert mx.allclose(got, wanted, rtol=1e-2 if got.dtype != mx.float32 else 1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_it_is_the_fused_kernel(mask, dtype):
    queries, keys, values = parts(dtype)
    if isinstance(mask, mx.array) and mask.dtype != mx.bool_:
        mask = mask.astype(dtype)
    wanted = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.3, mask=mask)
    same(attend(queries, keys, values, 0.3, mask, None, untouched), wanted)


@pytest.mark.parametrize("mask", ["causal", None])
def test_sinks_are_those_of_the_fused_kernel(mask):
    queries, keys, values = parts()
    sinks = random(HEADS)
    wanted = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.3, mask=mask, sinks=sinks)
    same(attend(queries, keys, values, 0.3, mask, sinks, untouched), wanted)


def test_sinks_take_their_share_of_every_row():
    seen = {}
    attend(*parts(), 0.3, "causal", random(HEADS), seen.setdefault)
    assert seen["pattern"].shape == (1, HEADS, LENGTH, LENGTH)
    assert mx.all(seen["pattern"].sum(axis=-1) < 1).item()


def test_causal_is_counted_from_the_last_key():
    seen = {}
    queries, keys, values = parts(keys=LENGTH + 3)
    attend(queries, keys, values, 0.3, "causal", None, seen.setdefault)
    allowed = np.tril(np.ones((LENGTH, LENGTH + 3)), 3) > 0
    assert np.array_equal(np.array(seen["pattern"][0, 0]) > 0, allowed)


def test_each_group_of_heads_reads_its_own_kv_head():
    queries, keys, values = parts()
    out = attend(queries, keys, values, 0.3, None, None, untouched)
    for head in range(HEADS):
        group = slice(head // 2, head // 2 + 1)
        alone = attend(queries[:, head : head + 1], keys[:, group], values[:, group], 0.3, None, None, untouched)
        assert mx.allclose(out[:, head : head + 1], alone, atol=1e-6)


def test_what_comes_back_from_the_listener_is_used():
    queries, keys, values = parts()
    first = mx.zeros((1, HEADS, LENGTH, LENGTH)).at[..., 0].add(1.0)
    out = attend(queries, keys, values, 0.3, "causal", None, lambda event, a: first if event == "pattern" else a)
    assert mx.allclose(out, mx.repeat(values[:, :, :1], 2, axis=1))


def test_a_quantised_cache_is_read_back():
    class Cache:
        group_size, bits = 32, 8

    array = random(1, 2, 5, 32)
    packed = mx.quantize(array, group_size=32, bits=8)
    assert mx.array_equal(dequantized(packed, Cache()), mx.dequantize(*packed, group_size=32, bits=8))
    assert dequantized(array, None) is array
