"""Prompt caches: how many positions they hold, and that a failed run leaves them as they were."""

from copy import deepcopy

import mlx.core as mx
import pytest
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache

from mlx_patch.engine import Restored, note_offset, offset_of
from mlx_patch.errors import KindError


def recurrent(positions: int | None = None) -> list[ArraysCache]:
    """The states of two layers, with a note of how many positions made them or without."""
    cache = [ArraysCache(size=2), ArraysCache(size=2)]
    if positions is not None:
        fill(cache)
        note_offset(cache, positions)
    return cache


def fill(cache: list[ArraysCache]) -> None:
    for entry in cache:
        entry[0], entry[1] = mx.zeros((1, 3, 4)), mx.ones((1, 4))


def keys_and_values(positions: int) -> KVCache:
    cache = KVCache()
    cache.update_and_fetch(mx.zeros((1, 1, positions, 4)), mx.zeros((1, 1, positions, 4)))
    return cache


def test_an_empty_cache_holds_nothing():
    assert offset_of(None) == offset_of([]) == offset_of(recurrent()) == offset_of([KVCache()]) == 0


def test_recurrent_states_hold_what_was_noted():
    assert offset_of(recurrent(7)) == 7


def test_a_copy_holds_what_the_original_held():
    assert offset_of(deepcopy(recurrent(7))) == 7


def test_states_that_something_else_moved_on_are_refused():
    cache = recurrent(7)
    cache[1][1] = mx.zeros((1, 4))
    with pytest.raises(KindError, match="must know how many positions it holds"):
        offset_of(cache)


def test_states_filled_elsewhere_are_refused():
    cache = recurrent()
    fill(cache)
    with pytest.raises(KindError, match=r"ArraysCache.*Fill it with `model\.run"):
        offset_of(cache)


@pytest.mark.parametrize("within", [list, lambda parts: [CacheList(*parts)]])
def test_keys_speak_for_the_states_beside_them(within):
    states = ArraysCache(size=2)
    fill([states])
    assert offset_of(within([states, keys_and_values(5)])) == 5


def test_a_padded_batch_is_refused():
    with pytest.raises(KindError, match="Group prompts by length"):
        offset_of([ArraysCache(size=2, left_padding=[0, 2])])


def test_after_a_failure_states_are_as_before():
    cache = recurrent(7)

    def run() -> None:
        with Restored(cache):
            cache[0][1] = cache[0][1] + 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        run()
    assert mx.array_equal(cache[0][1], mx.ones((1, 4)))
    assert offset_of(cache) == 7


def test_after_a_failure_caches_in_lists_are_as_before():
    states, keys = ArraysCache(size=2), keys_and_values(5)
    fill([states])
    cache = [CacheList(states, keys)]

    def run() -> None:
        with Restored(cache):
            states[0] = mx.ones((1, 3, 4))
            keys.update_and_fetch(mx.ones((1, 1, 2, 4)), mx.ones((1, 1, 2, 4)))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        run()
    assert cache[0][0] is states
    assert mx.array_equal(states[0], mx.zeros((1, 3, 4)))
    assert offset_of(cache) == 5
