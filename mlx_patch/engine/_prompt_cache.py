"""Prompt caches: the number of positions in one, and its restoration after a run that failed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlx_patch.errors import KindError

_NOTE = "_mlx_patch_noted"
_BY_ROW = ("offset", "left_padding", "lengths")
"""The attributes that are arrays, a number for each row, in caches of padded batches."""


@dataclass(frozen=True)
class _OffsetNote:
    """The number of positions in a recurrent state, which has no count of its own, and the arrays it is true of."""

    positions: int
    arrays: tuple[mx.array, ...]

    def holds(self, entry: Any) -> bool:
        arrays = cached_arrays(entry)
        if len(arrays) != len(self.arrays):
            return False
        return all(array is noted for array, noted in zip(arrays, self.arrays, strict=True))


def offset_of(cache: Sequence[Any] | None) -> int:
    """The number of positions in a prompt cache; 0 for None.

    Recurrent states do not count. In a cache of these alone, the number is known only if mlx_patch's runs filled it.

    Raises:
        KindError: Its rows hold different numbers of positions, or it does not say how many they hold.
    """
    entries = _entries(cache)
    for entry in entries:
        _refuse_padded(entry)
    offsets = (getattr(entry, "offset", None) for entry in entries)
    counted = max((offset for offset in offsets if offset is not None), default=0)
    return counted or max(map(_noted_offset, entries), default=0)


def _refuse_padded(entry: Any) -> None:
    if any(isinstance(getattr(entry, name, None), mx.array) for name in _BY_ROW):
        raise KindError(
            "`prompt_cache` must hold the same number of positions in each row. Got a padded batch "
            f"({type(entry).__name__}). Group prompts by length."
        )


def _entries(cache: Sequence[Any] | None) -> list[Any]:
    """The caches of all layers, also those inside lists of caches."""
    entries: list[Any] = []
    for entry in cache or ():
        entries += getattr(entry, "caches", (entry,))
    return entries


def _noted_offset(entry: Any) -> int:
    note: _OffsetNote | None = getattr(entry, _NOTE, None)
    if note is not None and note.holds(entry):
        return note.positions
    if not hasattr(entry, "offset") and cached_arrays(entry):
        raise KindError(
            "`prompt_cache` must know how many positions it holds. Got only recurrent states "
            f"({type(entry).__name__}), filled elsewhere. Fill it with `model.run(tokens, prompt_cache=...)`."
        )
    return 0


def note_offset(cache: Sequence[Any] | None, positions: int) -> None:
    """Note the number of positions on entries that do not count, or are empty. A copy of an entry keeps the note."""
    for entry in _entries(cache):
        if not getattr(entry, "offset", 0) and is_cache(entry):
            note = _OffsetNote(positions, tuple(cached_arrays(entry)))
            setattr(entry, _NOTE, note)


def cached_arrays(cache: Any) -> list[mx.array]:
    """Every array that a prompt cache holds, to be evaluated with the run that wrote them."""
    if isinstance(cache, mx.array):
        return [cache]
    if isinstance(cache, list | tuple):
        return [array for value in cache for array in cached_arrays(value)]
    if is_cache(cache):
        return cached_arrays(list(vars(cache).values()))
    return []


class Restored:
    """A context that puts a prompt cache back as it was if the block raises.

    Caches write into their arrays in place, so copies are kept; they are lazy, and cost nothing unless used.
    """

    def __init__(self, cache: Sequence[Any] | None):
        self.cache = cache

    def __enter__(self) -> None:
        self.offset = offset_of(self.cache)
        self.before = [_copied(entry) for entry in self.cache or ()]

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        if failed is not None:
            for entry in self.before:
                _put_back(entry)
            note_offset(self.cache, self.offset)
        self.before = []


@dataclass(frozen=True)
class _CacheCopy:
    """A cache object and the attributes that it had."""

    entry: Any
    attributes: dict[str, Any]


def is_cache(value: Any) -> bool:
    """Whether a value is one of mlx_lm's caches."""
    return hasattr(type(value), "state") and hasattr(value, "__dict__")


def _copied(value: Any) -> Any:
    if isinstance(value, mx.array):
        return mx.array(value)
    if isinstance(value, list | tuple):
        return type(value)(map(_copied, value))
    if is_cache(value):
        return _CacheCopy(value, {name: _copied(attribute) for name, attribute in vars(value).items()})
    return value


def _put_back(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_put_back, value))
    if not isinstance(value, _CacheCopy):
        return value
    attributes = vars(value.entry)
    attributes.clear()
    attributes.update({name: _put_back(attribute) for name, attribute in value.attributes.items()})
    return value.entry
