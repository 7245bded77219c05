"""`Snapshot`: the contents of a prompt cache after some positions, from which many runs can go on, with more rows.

A run over a prompt cache changes it. So a snapshot keeps the arrays as they were, and each run gets new caches made
from them. Rows that share a past share its arrays: they are repeated, lazily, where a block reads them.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache, KVCache

from mlx_patch.engine._prompt_cache import is_cache, note_offset


class Shared(KVCache):
    """A cache of keys and values whose rows have one past in common, and which any number of rows can write into.

    Attributes:
        past: Keys and values of the past. Shape `(batch, kv_head, past, d_head)` each.
        recent: Keys and values written since, for each row; None before the first.
        joined: The two together, as a block gets them; never computed where attention reads them apart.
    """

    def __init__(self, keys: mx.array, values: mx.array):
        super().__init__()
        self.past = (keys, values)
        self.keys, self.values = self.past
        self.recent: tuple[mx.array, mx.array] | None = None
        self.joined = self.past
        self.offset = keys.shape[2]

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Take in the keys and values of each row; return those of the past and all recent ones."""
        if self.recent is not None:
            recent_keys, recent_values = self.recent
            keys = mx.concatenate([recent_keys, keys], axis=2)
            values = mx.concatenate([recent_values, values], axis=2)
        self.recent = keys, values
        past_keys, past_values = self.past
        self.offset = past_keys.shape[2] + keys.shape[2]
        self.joined = _join(past_keys, keys), _join(past_values, values)
        self.keys, self.values = self.joined
        return self.joined


def _join(past: mx.array, recent: mx.array) -> mx.array:
    """The past, once for each row, and the row's recent positions behind it."""
    return mx.concatenate([repeated(past, recent.shape[0]), recent], axis=2)


@dataclass(frozen=True)
class Snapshot:
    """The contents of a prompt cache after the first `length` positions.

    Attributes:
        entries: A copy of each entry, which no run has written into.
        length: The number of positions.
        batch: The number of rows.
    """

    entries: tuple[Any, ...]
    length: int
    batch: int

    def opened(self) -> "RestoredPast":
        """Caches for one run that goes on from here."""
        return RestoredPast(self)


class RestoredPast:
    """The caches of one run that goes on from a snapshot.

    A sweep's rows enter at different blocks, so the batch grows while the model runs, and a cache must have the new
    number of rows when its block is called. Caches of blocks behind the current one are filled with more rows in
    place, because the model's own code already holds them. Caches of earlier blocks have been written into, with
    fewer rows, and must be left alone. No cache says whether it has been written into, so its contents are compared
    with those that this class put there.

    Attributes:
        snapshot: The snapshot.
        caches: The model's prompt cache.
    """

    def __init__(self, snapshot: Snapshot):
        self.snapshot = snapshot
        self.caches = [_map_arrays(entry, mx.array) for entry in snapshot.entries]
        note_offset(self.caches, snapshot.length)
        self._entries = snapshot.entries
        self._untouched = [list(_contents(cache)) for cache in self.caches]

    def settle(self) -> None:
        """Take the present contents of the caches as their unused state.

        A model may write into its caches before its first block is called. `rows` would take these for used, or undo
        what was written.
        """
        self._entries = tuple(_map_arrays(cache, mx.array) for cache in self.caches)
        self._untouched = [list(_contents(cache)) for cache in self.caches]

    def rows(self, times: int) -> None:
        """Repeat the snapshot's rows in every unused cache: all of them, one after another, so many times."""
        batch = self.snapshot.batch

        def repeat(array: mx.array) -> mx.array:
            if array.ndim and len(array) == batch:
                return repeated(array, batch * times)
            return array

        for number, (entry, cache) in enumerate(zip(self._entries, self.caches, strict=True)):
            # A `Shared` cache repeats its past itself, when it is read.
            if is_cache(cache) and not isinstance(cache, Shared) and self._is_unused(number):
                vars(cache).update(vars(_map_arrays(entry, repeat)))
                note_offset([cache], self.snapshot.length)
                self._untouched[number] = list(_contents(cache))

    def _is_unused(self, number: int) -> bool:
        contents, untouched = list(_contents(self.caches[number])), self._untouched[number]
        return len(contents) == len(untouched) and all(map(_is_same, contents, untouched))


def snapshot(caches: Sequence[Any], length: int, batch: int) -> Snapshot:
    """A snapshot of a prompt cache that holds `length` positions, or more where it can be cut."""
    return Snapshot(tuple(_cut(entry, length) for entry in caches), length, batch)


def can_truncate(caches: Sequence[Any]) -> bool:
    """Whether the past after fewer positions can be read from a prompt cache: it holds plain keys and values."""
    return all(type(cache) is KVCache for cache in _single_caches(caches))


def keeps_all_keys(caches: Sequence[Any]) -> bool:
    """Whether attention over a prompt cache sees the keys of all positions: no layer has a window or chunks."""
    return all(type(cache) in (KVCache, ArraysCache) for cache in _single_caches(caches))


def repeated(array: mx.array, rows: int) -> mx.array:
    """The rows of an array over and over, `rows` in all; no copy is made for one row."""
    times = rows // array.shape[0]
    stacked = mx.broadcast_to(array[None], (times, *array.shape))
    return stacked.reshape(rows, *array.shape[1:])


def _single_caches(caches: Sequence[Any]) -> Iterator[Any]:
    """The caches, with those inside lists of caches in the place of the lists."""
    for entry in caches:
        yield from getattr(entry, "caches", (entry,))


def _cut(entry: Any, length: int) -> Any:
    if type(entry) is KVCache:
        keys, values = entry.keys, entry.values
        if keys is None or values is None:
            return entry
        return Shared(keys[:, :, :length], values[:, :, :length])
    if hasattr(entry, "caches"):
        return _with(entry, caches=tuple(_cut(cache, length) for cache in entry.caches))
    return _map_arrays(entry, mx.array)


def _is_same(content: mx.array | int, untouched: mx.array | int) -> bool:
    """Whether two contents are the same array, or equal counts; arrays are not compared by value, which computes."""
    if content is untouched:
        return True
    return isinstance(content, int) and isinstance(untouched, int) and content == untouched


def _contents(value: Any) -> Iterator[mx.array | int]:
    """The arrays and the counts in a cache: some caches write into their arrays in place, and only a count changes."""
    if isinstance(value, mx.array | int):
        yield value
    elif isinstance(value, list | tuple):
        for element in value:
            yield from _contents(element)
    elif is_cache(value):
        yield from _contents(list(vars(value).values()))


def _map_arrays(value: Any, function: Callable[[mx.array], mx.array]) -> Any:
    """A copy of a cache, or of a value in it, with a function applied to each array."""
    if isinstance(value, mx.array):
        return function(value)
    if isinstance(value, list | tuple):
        return type(value)(_map_arrays(element, function) for element in value)
    if is_cache(value):
        attributes = {name: _map_arrays(attribute, function) for name, attribute in vars(value).items()}
        return _with(value, **attributes)
    return value


def _with(entry: Any, **attributes: Any) -> Any:
    changed = copy(entry)
    vars(changed).update(attributes)
    return changed
