"""Checks before a run that a prompt cache fits a model.

mlx_lm walks layers and entries side by side: with too few entries it silently runs a shorter model. The shapes that a
model would write come from a lazy run of one token, of which nothing is computed but shapes.
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
    """Refuse a prompt cache that was not made for a model, or that holds other prompts than the run's.

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
    reference = make_prompt_cache(model)
    _refuse_no_caches(prompt_cache)
    if len(prompt_cache) != len(reference):
        raise ValueRefusedError(
            f"`prompt_cache` must have {len(reference)} entries, like this model's own. Got {len(prompt_cache)}. "
            f"{_REMEDY}"
        )
    pairs = _pairs(prompt_cache, reference)
    for number, entry, expected in pairs:
        _refuse_other_kind(number, entry, expected)
    if any(cached_arrays(entry) for _, entry, _ in pairs):
        unseen(_fill, model, reference)
        _refuse_uneven(pairs)
        for number, entry, filled in pairs:
            _refuse_other_shape(number, entry, filled)
            if batch is not None:
                _refuse_other_rows(entry, batch)


def _pairs(prompt_cache: Sequence[Any], reference: Sequence[Any]) -> list[tuple[int, Any, Any]]:
    """Entry number, cache, and the model's own cache in its place."""
    entries, model_entries = list(_numbered(prompt_cache)), list(_numbered(reference))
    if [number for number, _ in entries] != [number for number, _ in model_entries]:
        raise KindError(
            f"`prompt_cache` must have the same kinds of entries as this model's own. Got others. {_REMEDY}"
        )
    both = zip(entries, model_entries, strict=True)
    return [(number, entry, expected) for (number, entry), (_, expected) in both]


def _refuse_no_caches(prompt_cache: Any) -> None:
    if not isinstance(prompt_cache, list | tuple) or not all(map(is_cache, prompt_cache)):
        raise KindError(f"`prompt_cache` must be a list of mlx_lm's caches. Got {_kind(prompt_cache)}. {_REMEDY}")
    offset_of(prompt_cache)  # which refuses padded rows
    if len({id(entry) for entry in prompt_cache}) < len(prompt_cache):
        raise ValueRefusedError(
            f"`prompt_cache` must hold a separate cache for each layer. Got the same one twice. {_REMEDY}"
        )


def _kind(prompt_cache: Any) -> str:
    if not isinstance(prompt_cache, list | tuple):
        return type(prompt_cache).__name__
    stranger = next(entry for entry in prompt_cache if not is_cache(entry))
    return f"a list with {type(stranger).__name__}"


def _numbered(caches: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """Each cache with the number of its entry; an entry that is a list of caches gives several."""
    for number, entry in enumerate(caches):
        for cache in getattr(entry, "caches", (entry,)):
            yield number, cache


def _fill(model: nn.Module, caches: Sequence[Any]) -> None:
    """Run one token lazily, so that the caches get their shapes."""
    model(mx.zeros((1, 1), mx.int32), cache=caches)


def _holds_keys(cache: Any) -> bool:
    """Whether it is a cache of keys and values; the several kinds of these can replace each other."""
    return hasattr(cache, "keys") and hasattr(cache, "values") and hasattr(cache, "update_and_fetch")


def _refuse_other_kind(number: int, entry: Any, expected: Any) -> None:
    is_alike = isinstance(entry, type(expected)) or (_holds_keys(entry) and _holds_keys(expected))
    states, expected_states = getattr(entry, "cache", ()), getattr(expected, "cache", ())
    if not is_alike or len(states) != len(expected_states):
        raise KindError(
            f"`prompt_cache` must have the same kinds of entries as this model's own. Got {type(entry).__name__} "
            f"instead of {type(expected).__name__} in entry {number}. {_REMEDY}"
        )


def _refuse_uneven(pairs: Sequence[tuple[int, Any, Any]]) -> None:
    """Refuse entries that hold different numbers of positions, among those that the model writes into."""
    written = [(number, entry) for number, entry, filled in pairs if cached_arrays(filled)]
    counts = [(number, entry.offset) for number, entry in written if _counts_positions(entry)]
    for (earlier, earlier_count), (number, count) in pairwise(counts):
        if count != earlier_count:
            raise ValueRefusedError(
                f"`prompt_cache` must hold the same number of positions in each entry. Got {earlier_count} in entry "
                f"{earlier} and {count} in entry {number}. Trim all entries, or start again. {_REMEDY}"
            )
    for number, entry in written:
        if not cached_arrays(entry):
            raise ValueRefusedError(
                f"`prompt_cache` must hold the same number of positions in each entry. Got none in entry {number}. "
                f"{_REMEDY}"
            )


def _counts_positions(cache: Any) -> bool:
    """Whether a cache counts its positions."""
    return isinstance(getattr(cache, "offset", None), int)


def _refuse_other_shape(number: int, entry: Any, filled: Any) -> None:
    shapes_of = _shapes_of_keys if _holds_keys(entry) else _shapes_of_states
    for shape, expected in zip(shapes_of(entry), shapes_of(filled), strict=True):
        if shape and expected and shape != expected:
            raise ShapeError(
                f"`prompt_cache` must hold arrays of the shape this model writes: {_format_shape(expected)}. Got "
                f"{_format_shape(shape)} in entry {number}. It is another model's. {_REMEDY}"
            )


def _format_shape(shape: tuple[int, ...]) -> str:
    return f"(batch, ..., {', '.join(map(str, shape))})"


def _shapes_of_keys(cache: Any) -> list[tuple[int, ...]]:
    """Heads and width of keys and of values; `()` for an empty cache."""
    return [_heads_and_width(array, cache) for array in (cache.keys, cache.values)]


def _heads_and_width(array: Any, cache: Any) -> tuple[int, ...]:
    if array is None:
        return ()
    if isinstance(array, mx.array):
        return array.shape[1], array.shape[-1]
    scales = array[1]  # of a quantised one: packed integers, scales, biases
    return scales.shape[1], scales.shape[-1] * cache.group_size


def _shapes_of_states(cache: Any) -> list[tuple[int, ...]]:
    """The axes of each state that do not depend on the prompt: not its rows, and not the second of three."""
    return [_fixed_axes(state) for state in _states(cache)]


def _states(cache: Any) -> list[Any]:
    states = getattr(cache, "cache", None)
    return list(vars(cache).values()) if states is None else list(states)


def _fixed_axes(state: Any) -> tuple[int, ...]:
    if not isinstance(state, mx.array):
        return ()
    if state.ndim > 3:
        return state.shape[1:]
    return state.shape[2:]


def _refuse_other_rows(entry: Any, batch: int) -> None:
    for array in cached_arrays(entry):
        if array.ndim > 1 and array.shape[0] != batch:
            raise ShapeError(
                f"`prompt_cache` must hold as many rows as `tokens`, {batch}. Got {array.shape[0]}. Run the prompts "
                "that filled it, or fill a new one with these prompts."
            )
