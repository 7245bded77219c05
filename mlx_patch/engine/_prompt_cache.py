"""Prompt caches: how much one holds, and how to put it back as it was after a run that failed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlx_patch.errors import KindError


def offset_of(cache: Sequence[Any] | None) -> int:
    """How many positions a prompt cache holds; 0 for none.

    Raises:
        KindError: Its rows hold different numbers of positions.
    """
    for entry in cache or ():
        offset = getattr(entry, "offset", None)
        if isinstance(offset, mx.array):
            raise KindError(
                "`prompt_cache` must hold equally many positions in each row. Got a padded batch "
                f"({type(entry).__name__}). Group prompts by length."
            )
        if offset is not None:
            return offset
    return 0


def arrays_of(cache: Any) -> list[mx.array]:
    """Every array that a prompt cache holds, to be evaluated with the run that wrote them."""
    if isinstance(cache, mx.array):
        return [cache]
    if isinstance(cache, list | tuple):
        return [array for part in cache for array in arrays_of(part)]
    return arrays_of(list(vars(cache).values())) if _is_cache(cache) else []


class Restored:
    """A context after which a prompt cache is as before if anything went wrong inside.

    Caches write into their arrays in place, so what is kept are copies; they are lazy, and cost nothing unless used.
    """

    def __init__(self, cache: Sequence[Any] | None):
        self.cache = cache

    def __enter__(self) -> None:
        self.before = [_kept(entry) for entry in self.cache or ()]

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        if failed is not None:
            for entry in self.before:
                _put_back(entry)
        self.before = []


@dataclass(frozen=True)
class _Kept:
    """A cache object and what its attributes were."""

    entry: Any
    attributes: dict[str, Any]


def _is_cache(value: Any) -> bool:
    return hasattr(type(value), "state") and hasattr(value, "__dict__")


def _kept(value: Any) -> Any:
    if isinstance(value, mx.array):
        return mx.array(value)
    if isinstance(value, list | tuple):
        return type(value)(map(_kept, value))
    return _Kept(value, {k: _kept(v) for k, v in vars(value).items()}) if _is_cache(value) else value


def _put_back(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_put_back, value))
    if not isinstance(value, _Kept):
        return value
    vars(value.entry).clear()
    vars(value.entry).update({k: _put_back(v) for k, v in value.attributes.items()})
    return value.entry
