"""Prompt caches: how much one holds, and how to put it back as it was after a run that failed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlx_patch.errors import KindError

_NOTE = "_mlx_patch_noted"


@dataclass(frozen=True)
class _Noted:
    """How many positions a recurrent state holds that does not say so itself, and the arrays for which that is true."""

    positions: int
    arrays: tuple[mx.array, ...]

    def holds(self, entry: Any) -> bool:
        now = cached_arrays(entry)
        return len(now) == len(self.arrays) and all(a is b for a, b in zip(now, self.arrays, strict=True))


def offset_of(cache: Sequence[Any] | None) -> int:
    """How many positions a prompt cache holds; 0 for none.

    Recurrent states do not say. Where there is nothing else, it is known of those that runs seen by mlx_patch filled.

    Raises:
        KindError: Its rows hold different numbers of positions, or it does not say how many they hold.
    """
    entries = _entries(cache)
    for entry in entries:
        if any(isinstance(getattr(entry, name, None), mx.array) for name in ("offset", "left_padding", "lengths")):
            raise KindError(
                "`prompt_cache` must hold equally many positions in each row. Got a padded batch "
                f"({type(entry).__name__}). Group prompts by length."
            )
    offsets = [offset for entry in entries if (offset := getattr(entry, "offset", None)) is not None]
    counted = max(offsets, default=0)
    return counted or max(map(_noted, entries), default=0)


def _entries(cache: Sequence[Any] | None) -> list[Any]:
    """The caches of all layers, those within lists too."""
    return [part for entry in cache or () for part in getattr(entry, "caches", (entry,))]


def _noted(entry: Any) -> int:
    note: _Noted | None = getattr(entry, _NOTE, None)
    if note is not None and note.holds(entry):
        return note.positions
    if not hasattr(entry, "offset") and cached_arrays(entry):
        raise KindError(
            "`prompt_cache` must say how many positions it holds. Got recurrent states alone "
            f"({type(entry).__name__}), filled elsewhere. Fill it with `model.run(tokens, prompt_cache=...)`."
        )
    return 0


def note_offset(cache: Sequence[Any] | None, positions: int) -> None:
    """Note on entries that do not count, or are not filled, that they hold so many positions now. A copy keeps it."""
    for entry in _entries(cache):
        if not getattr(entry, "offset", 0) and is_cache(entry):
            setattr(entry, _NOTE, _Noted(positions, tuple(cached_arrays(entry))))


def cached_arrays(cache: Any) -> list[mx.array]:
    """Every array that a prompt cache holds, to be evaluated with the run that wrote them."""
    if isinstance(cache, mx.array):
        return [cache]
    if isinstance(cache, list | tuple):
        return [array for part in cache for array in cached_arrays(part)]
    return cached_arrays(list(vars(cache).values())) if is_cache(cache) else []


class Restored:
    """A context after which a prompt cache is as before if anything went wrong inside.

    Caches write into their arrays in place, so what is kept are copies; they are lazy, and cost nothing unless used.
    """

    def __init__(self, cache: Sequence[Any] | None):
        self.cache = cache

    def __enter__(self) -> None:
        self.offset = offset_of(self.cache)
        self.before = [_kept(entry) for entry in self.cache or ()]

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        if failed is not None:
            for entry in self.before:
                _put_back(entry)
            note_offset(self.cache, self.offset)
        self.before = []


@dataclass(frozen=True)
class _Kept:
    """A cache object and what its attributes were."""

    entry: Any
    attributes: dict[str, Any]


def is_cache(value: Any) -> bool:
    """Whether a value is one of mlx_lm's caches."""
    return hasattr(type(value), "state") and hasattr(value, "__dict__")


def _kept(value: Any) -> Any:
    if isinstance(value, mx.array):
        return mx.array(value)
    if isinstance(value, list | tuple):
        return type(value)(map(_kept, value))
    return _Kept(value, {k: _kept(v) for k, v in vars(value).items()}) if is_cache(value) else value


def _put_back(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_put_back, value))
    if not isinstance(value, _Kept):
        return value
    vars(value.entry).clear()
    vars(value.entry).update({k: _put_back(v) for k, v in value.attributes.items()})
    return value.entry
