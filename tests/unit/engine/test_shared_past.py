"""Rows that share a past attend as if each had a copy of it."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import KVCache

from mlx_patch.engine import Shared, attend, attend_shared, worth_it

BATCH, TIMES, HEADS, KV_HEADS, PAST, OWN, D_HEAD = 2, 3, 4, 2, 5, 3, 8
ROWS, KEYS = BATCH * TIMES, PAST + OWN
CAUSAL = np.arange(PAST, KEYS)[:, None] >= np.arange(KEYS)
MASKS = {
    "none": None,
    "causal": "causal",
    "bool": mx.array(CAUSAL),
    "some of the past hidden": mx.array(CAUSAL & (np.arange(PAST, KEYS)[:, None] - np.arange(KEYS) < 4)),
    "all of the past hidden": mx.array(CAUSAL & (np.arange(KEYS) >= PAST)),
    "added": mx.where(mx.array(CAUSAL), 0.0, -mx.inf),
    "bias": mx.array(np.arange(OWN * KEYS, dtype=np.float32).reshape(OWN, KEYS) / 7),
    "for each head": mx.array(np.arange(HEADS * OWN * KEYS).reshape(1, HEADS, OWN, KEYS) % 3 > 0),
    "for each row": mx.array(np.arange(ROWS * OWN * KEYS).reshape(ROWS, 1, OWN, KEYS) % 4 > 0),
}


def random(*shape, dtype=mx.float32):
    return mx.random.normal(shape).astype(dtype)


def made(dtype=mx.float32, groups=KV_HEADS, d_value=D_HEAD):
    """Queries, and a cache whose rows share a past and have taken in keys and values of their own."""
    past = [random(BATCH, groups, PAST, size, dtype=dtype) for size in (D_HEAD, d_value)]
    cache = Shared(*past)
    cache.update_and_fetch(*(random(ROWS, groups, OWN, size, dtype=dtype) for size in (D_HEAD, d_value)))
    return random(ROWS, HEADS, OWN, D_HEAD, dtype=dtype), cache


def with_copies(queries, cache, mask, sinks=None):
    """Attention in float32 over keys and values in which each row has the past, prompt after prompt, over and over."""
    whole = [
        mx.concatenate([mx.concatenate([past] * TIMES, axis=0), own], axis=2).astype(mx.float32)
        for past, own in zip(cache.past, cache.recent, strict=True)
    ]
    return attend(queries.astype(mx.float32), *whole, 0.3, mask, sinks, lambda event, array: array)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_a_shared_past_is_as_copies_of_it(mask, groups):
    queries, cache = made(groups=groups)
    got = attend_shared(queries, cache, 0.3, mask, None)
    assert mx.allclose(got, with_copies(queries, cache, mask), rtol=0, atol=1e-6).item()


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_sinks_take_their_part(mask):
    (queries, cache), sinks = made(), random(HEADS)
    got = attend_shared(queries, cache, 0.3, mask, sinks)
    assert mx.allclose(got, with_copies(queries, cache, mask, sinks), rtol=0, atol=1e-6).item()
    assert not mx.allclose(got, with_copies(queries, cache, mask), rtol=0, atol=1e-3).item()


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
@pytest.mark.parametrize("mask", ["causal", MASKS["bool"], MASKS["added"]], ids=["causal", "bool", "added"])
def test_it_rounds_once_whatever_the_dtype(mask, dtype):
    queries, cache = made(dtype)
    got = attend_shared(queries, cache, 0.3, mask, None)
    assert got.dtype == dtype
    wanted = with_copies(queries, cache, mask)
    size = mx.maximum(mx.abs(wanted), 1e-3)
    assert mx.all(mx.abs(got.astype(mx.float32) - wanted) <= size * mx.finfo(dtype).eps).item()


def test_values_may_be_of_another_width_than_keys():
    queries, cache = made(d_value=5)
    got = attend_shared(queries, cache, 0.3, "causal", None)
    assert got.shape == (ROWS, HEADS, OWN, 5)
    assert mx.allclose(got, with_copies(queries, cache, "causal"), rtol=0, atol=1e-6).item()


def test_each_row_sees_its_own_prompt_s_past_and_its_own_keys():
    queries, cache = made()
    before = attend_shared(queries, cache, 0.3, None, None)
    cache.past = tuple(mx.concatenate([past[:1], past[1:] + 1]) for past in cache.past)
    moved = mx.any(attend_shared(queries, cache, 0.3, None, None) != before, axis=(1, 2, 3))
    assert moved.tolist() == [False, True] * TIMES
    _, cache = made()
    before = attend_shared(queries, cache, 0.3, None, None)
    cache.recent = tuple(mx.concatenate([own[:4], own[4:5] + 1, own[5:]]) for own in cache.recent)
    moved = mx.any(attend_shared(queries, cache, 0.3, None, None) != before, axis=(1, 2, 3))
    assert moved.tolist() == [row == 4 for row in range(ROWS)]


def test_it_is_taken_where_scores_are_smaller_than_copies():
    """Copies of the past."""
    queries, cache = made()
    assert worth_it(queries, *cache.joined, cache)
    many = mx.concatenate([queries] * 2, axis=2)  # twice 3 positions of 2 heads a group are more than 8 numbers
    assert not worth_it(many, *cache.joined, cache)


def test_it_is_left_where_something_else_is_to_be_attended_to():
    queries, cache = made()
    keys, values = cache.joined
    assert not worth_it(queries, keys + 0, values, cache)
    assert not worth_it(queries, keys, values + 0, cache)
    assert not worth_it(queries, keys, values, KVCache())
    assert not worth_it(queries, keys, values, None)
    assert not worth_it(queries, *cache.past, Shared(*cache.past))
