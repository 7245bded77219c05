"""`Snapshot`: what a prompt cache holds after some positions, to go on from as often as one likes, with more rows.

A run over a prompt cache changes it. So what is kept are the arrays as they were, and each run is given caches made
anew from them. Rows that share a past share its arrays: they are repeated, lazily, where a block comes to read them.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache, KVCache

from mlx_patch.engine._prompt_cache import is_cache, note_offset


class Shared(KVCache):
    """A cache of keys and values whose rows have one past in common, and which takes on as many rows as come.

    Attributes:
        past: Keys and values of the past. Shape `(batch, kv_head, past, d_head)` each.
        own: Keys and values of what came since, for each row; None where nothing has.
        given: The two together, as a block was given them; never computed where attention reads them apart.
    """

    def __init__(self, keys: mx.array, values: mx.array):
        super().__init__()
        self.past = (keys, values)
        self.keys, self.values = self.past
        self.own: tuple[mx.array, mx.array] | None = None
        self.given = self.past
        self.offset = keys.shape[2]

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Take in the keys and values of each row, and give those of the past and of all that came since."""
        if self.own is not None:
            keys, values = mx.concatenate([self.own[0], keys], axis=2), mx.concatenate([self.own[1], values], axis=2)
        self.own = keys, values
        self.offset = self.past[0].shape[2] + keys.shape[2]
        self.given = self._behind_past(0, keys), self._behind_past(1, values)
        self.keys, self.values = self.given
        return self.given

    def _behind_past(self, which: int, own: mx.array) -> mx.array:
        return mx.concatenate([repeated(self.past[which], own.shape[0]), own], axis=2)


@dataclass(frozen=True)
class Snapshot:
    """What a prompt cache held after the first `length` positions.

    Attributes:
        entries: A copy of each entry, which no run has written into.
        length: How many positions.
        batch: How many rows.
    """

    entries: tuple[Any, ...]
    length: int
    batch: int

    def opened(self) -> "RestoredPast":
        """Caches for one run that goes on from here."""
        return RestoredPast(self)


class RestoredPast:
    """The caches of one run that goes on from a snapshot.

    Attributes:
        snapshot: Where they come from.
        caches: What the model is given.
    """

    def __init__(self, snapshot: Snapshot):
        self.snapshot = snapshot
        self.caches = [_mapped(entry, mx.array) for entry in snapshot.entries]
        self._entries = snapshot.entries
        self._given = [list(_contents(cache)) for cache in self.caches]

    def settle(self) -> None:
        """Take what the caches hold now, as the model has prepared them before its first block, as what they held."""
        self._entries = tuple(_mapped(cache, mx.array) for cache in self.caches)
        self._given = [list(_contents(cache)) for cache in self.caches]

    def rows(self, times: int) -> None:
        """Let every cache that has not been used yet hold the snapshot's rows so many times over, one after another."""
        batch = self.snapshot.batch

        def repeat(array: mx.array) -> mx.array:
            return repeated(array, batch * times) if array.ndim and len(array) == batch else array

        for n, (entry, cache) in enumerate(zip(self._entries, self.caches, strict=True)):
            if is_cache(cache) and not isinstance(cache, Shared) and self._unused(n):
                vars(cache).update(vars(_mapped(entry, repeat)))
                note_offset([cache], self.snapshot.length)
                self._given[n] = list(_contents(cache))

    def _unused(self, n: int) -> bool:
        now, given = list(_contents(self.caches[n])), self._given[n]
        return len(now) == len(given) and all(map(_same, now, given))


def snapshot(caches: Sequence[Any], length: int, batch: int) -> Snapshot:
    """A snapshot of a prompt cache that holds `length` positions, or more where it can be cut."""
    return Snapshot(tuple(_cut(entry, length) for entry in caches), length, batch)


def can_truncate(caches: Sequence[Any]) -> bool:
    """Whether the past after fewer positions can be read from a prompt cache: it holds plain keys and values."""
    return all(type(part) is KVCache for part in _parts(caches))


def keeps_all_keys(caches: Sequence[Any]) -> bool:
    """Whether attention over a prompt cache sees the keys of all positions: no layer has a window or chunks."""
    return all(type(part) in (KVCache, ArraysCache) for part in _parts(caches))


def repeated(array: mx.array, rows: int) -> mx.array:
    """The rows of an array over and over until there are so many, without a copy if there is one."""
    times = rows // array.shape[0]
    many = mx.broadcast_to(array[None], (times, *array.shape))
    return many.reshape(rows, *array.shape[1:])


def _parts(caches: Sequence[Any]) -> Iterator[Any]:
    for entry in caches:
        yield from getattr(entry, "caches", (entry,))


def _cut(entry: Any, length: int) -> Any:
    if type(entry) is KVCache:
        keys, values = entry.keys, entry.values
        return entry if keys is None or values is None else Shared(keys[:, :, :length], values[:, :, :length])
    if hasattr(entry, "caches"):
        return _with(entry, caches=tuple(_cut(part, length) for part in entry.caches))
    return _mapped(entry, mx.array)


def _same(now: mx.array | int, given: mx.array | int) -> bool:
    return now is given or (isinstance(now, int) and isinstance(given, int) and now == given)


def _contents(value: Any) -> Iterator[mx.array | int]:
    """The arrays that a cache holds and its counts; some write into their arrays in place, and only count on."""
    if isinstance(value, mx.array | int):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _contents(part)
    elif is_cache(value):
        yield from _contents(list(vars(value).values()))


def _mapped(value: Any, on: Callable[[mx.array], mx.array]) -> Any:
    """A cache, or what is in it, with each array as `on` gives it."""
    if isinstance(value, mx.array):
        return on(value)
    if isinstance(value, list | tuple):
        return type(value)(_mapped(part, on) for part in value)
    return _with(value, **{name: _mapped(own, on) for name, own in vars(value).items()}) if is_cache(value) else value


def _with(entry: Any, **attributes: Any) -> Any:
    other = copy(entry)
    vars(other).update(attributes)
    return other
