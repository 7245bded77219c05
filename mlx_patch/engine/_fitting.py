"""Whether a prompt cache fits a model, seen before a run.

mlx_lm walks layers and entries side by side: with too few entries it runs a shorter model, and says nothing. What a
model would write is seen in a lazy run of one token, of which nothing is computed but shapes.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache

from mlx_patch.engine._prompt_cache import cached_arrays, is_cache, offset_of
from mlx_patch.engine._tap import unseen
from mlx_patch.errors import KindError, ShapeError, ValueRefusedError

_REMEDY = "Make one with mlx_lm.models.cache.make_prompt_cache(model.model)."


def refuse_misfit(model: nn.Module, prompt_cache: Any, batch: int | None) -> None:
    """Refuse a prompt cache that is not one of a model, or holds other prompts than are run.

    Caches of keys and values may stand for each other: plain, rotating or quantised. Caches of two models whose keys
    and values have the same shapes cannot be told apart.

    Args:
        model: The model.
        prompt_cache: What `make_prompt_cache` makes, one entry or more a layer.
        batch: The rows that are run; None where it does not matter.
    Raises:
        KindError: It is no list of caches, an entry is of another kind than the model's, or as `offset_of`.
        ValueRefusedError: It has too few entries or too many, one twice, or entries that hold different numbers of
            positions.
        ShapeError: It holds keys, values or states of another shape, or another number of rows.
    """
    wanted = make_prompt_cache(model)
    _refuse_no_caches(prompt_cache)
    if len(prompt_cache) != len(wanted):
        raise ValueRefusedError(
            f"`prompt_cache` must have the {len(wanted)} entries of this model's. Got {len(prompt_cache)}. {_REMEDY}"
        )
    parts, others = list(_parts(prompt_cache)), list(_parts(wanted))
    if [number for number, _ in parts] != [number for number, _ in others]:
        raise KindError(f"`prompt_cache` must have the kinds of entries of this model's. Got others. {_REMEDY}")
    pairs = [(number, part, other) for (number, part), (_, other) in zip(parts, others, strict=True)]
    for number, part, other in pairs:
        _refuse_other_kind(number, part, other)
    if any(cached_arrays(part) for _, part, _ in pairs):
        unseen(_fill, model, wanted)
        _refuse_uneven(pairs)
        for number, part, other in pairs:
            _refuse_other_shape(number, part, other)
            if batch is not None:
                _refuse_other_rows(part, batch)


def _refuse_no_caches(prompt_cache: Any) -> None:
    if not isinstance(prompt_cache, list | tuple) or not all(map(is_cache, prompt_cache)):
        raise KindError(f"`prompt_cache` must be a list of mlx_lm's caches. Got {_kind(prompt_cache)}. {_REMEDY}")
    offset_of(prompt_cache)  # which refuses padded rows
    if len({id(entry) for entry in prompt_cache}) < len(prompt_cache):
        raise ValueRefusedError(f"`prompt_cache` must hold a cache of its own for each layer. Got one twice. {_REMEDY}")


def _kind(prompt_cache: Any) -> str:
    if not isinstance(prompt_cache, list | tuple):
        return type(prompt_cache).__name__
    return f"a list with {next(type(entry).__name__ for entry in prompt_cache if not is_cache(entry))}"


def _parts(caches: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """Each cache with the number of its entry; those of a list of caches too."""
    for number, entry in enumerate(caches):
        for part in getattr(entry, "caches", (entry,)):
            yield number, part


def _fill(model: nn.Module, caches: Sequence[Any]) -> None:
    """Let a model write the shapes of one token into its caches."""
    model(mx.zeros((1, 1), mx.int32), cache=caches)


def _holds_keys(cache: Any) -> bool:
    """Whether it is a cache of keys and values, of which there are several kinds that stand for each other."""
    return hasattr(cache, "keys") and hasattr(cache, "values") and hasattr(cache, "update_and_fetch")


def _refuse_other_kind(number: int, part: Any, wanted: Any) -> None:
    alike = isinstance(part, type(wanted)) or (_holds_keys(part) and _holds_keys(wanted))
    if not alike or len(getattr(part, "cache", ())) != len(getattr(wanted, "cache", ())):
        raise KindError(
            f"`prompt_cache` must have the kinds of entries of this model's. Got {type(part).__name__} for "
            f"{type(wanted).__name__} in entry {number}. {_REMEDY}"
        )


def _refuse_uneven(pairs: Sequence[tuple[int, Any, Any]]) -> None:
    """Refuse entries of which some hold more than others, where the model writes into all of them."""
    used = [(number, part) for number, part, filled in pairs if cached_arrays(filled)]
    counts = [(number, _held(part)) for number, part in used]
    known = [(number, held) for number, held in counts if held is not None]
    for (before, some), (number, held) in pairwise(known):
        if held != some:
            raise ValueRefusedError(
                f"`prompt_cache` must hold equally many positions in each entry. Got {some} in entry {before} and "
                f"{held} in entry {number}. Trim all of them, or begin again. {_REMEDY}"
            )
    empty = next((number for number, part in used if not cached_arrays(part)), None)
    if empty is not None:
        raise ValueRefusedError(
            f"`prompt_cache` must hold equally many positions in each entry. Got none in entry {empty}. {_REMEDY}"
        )


def _held(cache: Any) -> int | None:
    """How many positions a cache holds, where it says so."""
    offset = getattr(cache, "offset", None)
    return offset if isinstance(offset, int) else None


def _refuse_other_shape(number: int, part: Any, filled: Any) -> None:
    shapes = _shapes_of_keys if _holds_keys(part) else _shapes_of_states
    for got, wanted in zip(shapes(part), shapes(filled), strict=True):
        if got and wanted and got != wanted:
            raise ShapeError(
                f"`prompt_cache` must hold what this model writes: {_written(wanted)}. Got {_written(got)} in entry "
                f"{number}. It is another model's. {_REMEDY}"
            )


def _written(shape: tuple[int, ...]) -> str:
    return f"(batch, ..., {', '.join(map(str, shape))})"


def _shapes_of_keys(cache: Any) -> list[tuple[int, ...]]:
    """Heads and width of keys and of values; nothing of an empty cache."""
    return [() if array is None else _heads_and_width(array, cache) for array in (cache.keys, cache.values)]


def _heads_and_width(array: Any, cache: Any) -> tuple[int, int]:
    if isinstance(array, mx.array):
        return array.shape[1], array.shape[-1]
    scales = array[1]  # of a quantised one: packed integers, scales, biases
    return scales.shape[1], scales.shape[-1] * cache.group_size


def _shapes_of_states(cache: Any) -> list[tuple[int, ...]]:
    """The axes of each state that do not depend on what was read: not its rows, and not the second of three."""
    return [_fixed(state) if isinstance(state, mx.array) else () for state in _states(cache)]


def _states(cache: Any) -> list[Any]:
    held = getattr(cache, "cache", None)
    return list(vars(cache).values()) if held is None else list(held)


def _fixed(state: mx.array) -> tuple[int, ...]:
    return state.shape[1:] if state.ndim > 3 else state.shape[2:]


def _refuse_other_rows(part: Any, batch: int) -> None:
    for array in cached_arrays(part):
        if array.ndim > 1 and array.shape[0] != batch:
            raise ShapeError(
                f"`prompt_cache` must hold as many rows as `tokens`, {batch}. Got {array.shape[0]}. "
                "Run the prompts that it was filled with, or fill one for each of these."
            )
