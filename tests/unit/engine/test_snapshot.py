"""A snapshot of a prompt cache: runs go on from it as often as one likes, with more rows, and leave it as it was."""

from copy import deepcopy

import mlx.core as mx
import pytest
from mlx_lm.models.cache import (
    ArraysCache,
    CacheList,
    ChunkedKVCache,
    ConcatenateKVCache,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
)

from mlx_patch.engine import Shared, cached_arrays, can_truncate, note_offset, offset_of, repeated, snapshot

BATCH, TIMES, HEADS, SIZE = 2, 3, 2, 32
KINDS = {
    "plain": KVCache,
    "concatenated": ConcatenateKVCache,
    "rotating": lambda: RotatingKVCache(max_size=4),
    "rotating, first kept": lambda: RotatingKVCache(max_size=4, keep=1),
    "in chunks": lambda: ChunkedKVCache(chunk_size=4),
    "quantised": lambda: QuantizedKVCache(group_size=32, bits=8),
    "states": lambda: ArraysCache(size=2),
    "states and keys": lambda: CacheList(ArraysCache(size=2), KVCache()),
    "keys twice": lambda: CacheList(KVCache(), KVCache()),
    "keys and a window": lambda: CacheList(KVCache(), RotatingKVCache(max_size=4)),
}


def fresh(rows, length):
    return tuple(mx.random.normal((rows, HEADS, length, SIZE)) for _ in range(2))


def grow(cache, new):
    """What a block is given of a cache when it takes in new keys and values; a state adds up what it sees."""
    if isinstance(cache, CacheList):
        return [array for part in cache.caches for array in grow(part, new)]
    if isinstance(cache, ArraysCache):
        for i, array in enumerate(new):
            cache[i] = array.sum(axis=2) if cache[i] is None else cache[i] + array.sum(axis=2)
        return [cache[0], cache[1]]
    if isinstance(cache, ChunkedKVCache):
        cache.maybe_trim_front()
    return cached_arrays(list(cache.update_and_fetch(*new)))


def filled(kind, length):
    cache = KINDS[kind]()
    grow(cache, fresh(BATCH, length))
    note_offset([cache], length)
    return cache


def over_and_over(cache):
    """A cache of the same kind in which each row of a cache stands as often as a pass wants it."""
    other = deepcopy(cache)
    for part in getattr(other, "caches", (other,)):
        for name, value in vars(part).items():
            if name in ("keys", "values", "cache"):
                setattr(part, name, _repeated(value))
    return other


def _repeated(value):
    if isinstance(value, mx.array):
        return mx.concatenate([value] * TIMES, axis=0)
    return type(value)(map(_repeated, value))


def same(got, wanted):
    assert len(got) == len(wanted)
    assert all(mx.array_equal(a, b).item() for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("new", [1, 3])
@pytest.mark.parametrize("held", [2, 4, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_many_rows_go_on_from_it_as_often_as_they_like(kind, held, new):
    """The rows of a run."""
    cache = filled(kind, held)
    taken, whole = snapshot([cache], held, BATCH), over_and_over(cache)
    for _ in range(2):
        opened, more = taken.opened(), fresh(BATCH * TIMES, new)
        opened.rows(TIMES)
        assert offset_of(opened.caches) == held
        wanted = deepcopy(whole)
        same(grow(opened.caches[0], more), grow(wanted, more))
        again = fresh(BATCH * TIMES, 1)
        same(grow(opened.caches[0], again), grow(wanted, again))


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_cache_takes_in_afterwards_is_not_in_it(kind):
    cache = filled(kind, 5)
    taken, whole = snapshot([cache], 5, BATCH), over_and_over(cache)
    grow(cache, fresh(BATCH, 1))
    grow(cache, fresh(BATCH, 4))
    opened, more = taken.opened(), fresh(BATCH * TIMES, 2)
    opened.rows(TIMES)
    same(grow(opened.caches[0], more), grow(whole, more))


@pytest.mark.parametrize("kind", ["plain", "keys twice"])
def test_plain_keys_can_be_cut_to_fewer_positions(kind):
    cache = KINDS[kind]()
    first, second = fresh(BATCH, 4), fresh(BATCH, 3)
    grow(cache, first)
    whole = over_and_over(cache)
    grow(cache, second)
    assert can_truncate([cache])
    opened, more = snapshot([cache], 4, BATCH).opened(), fresh(BATCH * TIMES, 2)
    opened.rows(TIMES)
    same(grow(opened.caches[0], more), grow(whole, more))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("plain", "keys twice")])
def test_nothing_else_can_be_cut(kind):
    assert not can_truncate([KVCache(), filled(kind, 5)])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_may_come_later(kind):
    cache = filled(kind, 5)
    opened, whole = snapshot([cache], 5, BATCH).opened(), over_and_over(cache)
    opened.rows(1)
    opened.rows(TIMES)
    more = fresh(BATCH * TIMES, 2)
    same(grow(opened.caches[0], more), grow(whole, more))


def test_what_a_model_prepares_stays_when_rows_come():
    """What it prepares before its blocks."""
    opened = snapshot([filled("states", 5)], 5, BATCH).opened()
    opened.rows(1)
    opened.caches[0][0] = opened.caches[0][0] + 1
    prepared = opened.caches[0][0]
    opened.settle()
    opened.rows(TIMES)
    assert mx.array_equal(opened.caches[0][0], mx.concatenate([prepared] * TIMES)).item()


def test_an_empty_cache_stays_one():
    opened = snapshot([KVCache(), ArraysCache(size=2)], 0, BATCH).opened()
    opened.rows(TIMES)
    assert offset_of(opened.caches) == 0
    assert not cached_arrays(opened.caches)


def test_no_cache_at_a_layer_stays_none():
    opened = snapshot([None, filled("plain", 5)], 5, BATCH).opened()
    opened.rows(TIMES)
    assert opened.caches[0] is None


def test_the_past_is_not_copied_for_each_row():
    cache = filled("plain", 5)
    opened = snapshot([cache], 5, BATCH).opened()
    opened.rows(TIMES)
    shared = opened.caches[0]
    assert isinstance(shared, Shared)
    shared.update_and_fetch(*fresh(BATCH * TIMES, 1))
    assert [len(past) for past in shared.past] == [BATCH, BATCH]
    assert [own.shape for own in shared.recent] == [(BATCH * TIMES, HEADS, 1, SIZE)] * 2


def test_rows_are_repeated_over_and_over():
    assert repeated(mx.array([[1], [2]]), 6).tolist() == [[1], [2], [1], [2], [1], [2]]
    assert repeated(mx.array([[1], [2]]), 2).tolist() == [[1], [2]]
