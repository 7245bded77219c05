"""Where an intervention's values come from: an activation cache, or an array."""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import mlx.core as mx
import numpy as np

from mlx_patch.errors import KindError, MissingSiteError, SelectionError, ShapeError, ValueRefusedError
from mlx_patch.interventions._fitted import broadcasts, is_real
from mlx_patch.interventions._where import Where, refuse_no_positions, refuse_shape
from mlx_patch.sites import Site


@runtime_checkable
class ActivationSource(Protocol):
    """What an intervention needs of an `ActivationCache`."""

    @property
    def positions(self) -> tuple[int, ...]:
        """The absolute positions that it holds, in order."""
        ...

    @property
    def n_positions(self) -> int:
        """The positions of the prompt that it was captured from."""
        ...

    def __getitem__(self, site: Any, /) -> mx.array: ...

    def __contains__(self, site: object, /) -> bool: ...


Source = ActivationSource | mx.array
"""What `as_source` returns."""

SourceLike = Source | np.ndarray | float
"""What a caller may pass for one."""


def as_source(name: str, given: object) -> Source:
    """The given source; an array or a plain number as a handle of our own on an mx array of floats.

    Raises:
        KindError: It is neither a cache nor an array of real numbers.
    """
    if isinstance(given, np.ndarray | np.number | float | int) and not isinstance(given, bool):
        given = _from_numpy(name, np.asarray(given))
    if isinstance(given, mx.array):
        if not is_real(given.dtype):
            raise KindError(f"`{name}` must hold real numbers. Got {given.dtype}.")
        return given[...] if mx.issubdtype(given.dtype, mx.floating) else given.astype(mx.float32)
    if isinstance(given, ActivationSource):
        return given
    raise KindError(f"`{name}` must be an ActivationCache, an mx.array or a numpy array. Got {type(given).__name__}.")


def _from_numpy(name: str, given: np.ndarray) -> mx.array:
    if given.dtype.kind not in "fiu":
        raise KindError(f"`{name}` must hold real numbers. Got {given.dtype}.")
    return mx.array(given.astype(np.float32) if given.dtype != np.float16 else given)


def describe(source: object) -> str:
    """A source in a few words, for a `repr`."""
    if isinstance(source, mx.array):
        return f"array {tuple(source.shape)} {str(source.dtype).removeprefix('mlx.core.')}"
    return repr(source)


def serves_every_row(source: Source) -> bool:
    """Whether a source has one row, for whatever row it is asked for; False where that cannot be told."""
    if isinstance(source, mx.array):
        return source.ndim < 2 or source.shape[0] == 1
    tokens = getattr(source, "tokens", None)
    return isinstance(tokens, mx.array) and tokens.ndim == 2 and tokens.shape[0] == 1


def check_source(name: str, source: Source, sites: Iterable[Site]) -> None:
    """Refuse a source that lacks a site or holds NaN, before anything is computed with it.

    Raises:
        MissingSiteError: The cache lacks one of `sites`.
        ValueRefusedError: It holds NaN.
    """
    if isinstance(source, mx.array):
        named = {name: source}
    else:
        named = {str(site): _held(name, source, site) for site in sites}
    nan = {label: mx.any(mx.isnan(array)) for label, array in named.items()}
    mx.eval(*nan.values())
    for label, found in nan.items():
        if found.item():
            raise ValueRefusedError(f"`{name}` must not hold NaN. Got NaN in {label}. Look at the run it came from.")


def _held(name: str, source: ActivationSource, site: Site) -> mx.array:
    if site not in source:
        raise MissingSiteError(
            f"`{name}` must hold {site}. Got {source!r}. Capture it with `run_with_cache(..., sites=...)`."
        )
    return source[site]


def values_of(name: str, source: Source, own: mx.array, where: Where) -> mx.array:
    """The source's values for the picked part, in the shape and dtype of `own`.

    An array may have the whole activation's shape (the same part is taken from it), that of the whole prompt's where
    the prompt comes in pieces, or one that broadcasts to the picked part. A batch of 1 serves every row.

    Raises:
        ShapeError: The shapes do not fit.
        SelectionError: The source does not hold a picked position.
    """
    if isinstance(source, mx.array):
        value = _of_array(name, source, own, where)
    else:
        array = _held(name, source, where.site)
        _refuse_other_length(name, array, source, where, _ALIGN)
        _refuse_other_batch(name, array, where)
        value = _at_positions(name, array, source.positions, where)
    value = mx.broadcast_to(value, own.shape)
    return value.astype(own.dtype) if mx.issubdtype(own.dtype, mx.floating) else value  # which `fitted` refuses


_ALIGN = (
    "The two prompts differ in length: say which position stands for which, "
    "`mp.Replace(cache, positions=mp.align(clean, corrupted))`."
)
_OF_THIS_LENGTH = (
    "It is taken position by position: take it of prompts of this length, or, for a mean, take one over all positions, "
    '`over="batch_pos"`. `store.mean("batch", n_positions=...)` gives one for a length.'
)


def source_rows(name: str, source: Source, where: Where) -> mx.array:
    """The source's values for the picked part in every row of its own batch, which may be of any size.

    Raises:
        ShapeError: The shapes do not fit.
        SelectionError: The source does not hold a picked position.
    """
    where = where.every_row()
    if not isinstance(source, mx.array):
        array = _held(name, source, where.site)
        _refuse_other_length(name, array, source, where, _OF_THIS_LENGTH)
        return _at_positions(name, array, source.positions, where)
    if source.shape[1:] == where.whole.shape[1:]:
        return where.take(source)
    prompt = where.span.prompt
    if prompt is not None and source.shape[1:] == _with_length(where.whole.shape, where, prompt)[1:]:
        return _at_positions(name, source, tuple(range(prompt)), where)
    refuse_shape(name, ("any", *where.whole.shape[1:]), source.shape, _unequal(source.shape, where, _OF_THIS_LENGTH))


def whole_of(name: str, source: Source, where: Where) -> mx.array:
    """The source's whole activation at the site, of any batch and any length.

    Raises:
        ShapeError: The other axes differ from the activation's.
    """
    array = source if isinstance(source, mx.array) else _held(name, source, where.site)
    _refuse_other_dims(name, array, where)
    return array


def _of_array(name: str, array: mx.array, own: mx.array, where: Where) -> mx.array:
    if _fits(array.shape, where.whole.shape):
        return where.take(array)
    prompt = where.span.prompt
    if prompt is not None and _fits(array.shape, _with_length(where.whole.shape, where, prompt)):
        return _at_positions(name, array, tuple(range(prompt)), where)
    if not broadcasts(array.shape, own.shape):
        hint = f"The picked part has shape {own.shape}." if own.shape != where.whole.shape else ""
        refuse_shape(name, where.whole.shape, array.shape, hint or _unequal(array.shape, where, _ALIGN))
    return array


def _fits(shape: tuple[int, ...], of: tuple[int, ...]) -> bool:
    return shape == of or (len(shape) == len(of) > 1 and shape[1:] == of[1:] and shape[0] == 1)


def _at_positions(name: str, array: mx.array, positions: tuple[int, ...], where: Where) -> mx.array:
    """The picked part of an array that holds these absolute positions."""
    span, whole = where.span, where.whole.shape
    if positions == tuple(range(span.offset, span.end)) and array.shape[1:] == whole[1:]:
        return where.take(array)
    refuse_no_positions(where.site, whole, span)
    _refuse_other_dims(name, array, where)
    if array.shape[where.pos_axis] != len(positions):
        refuse_shape(name, _with_length(whole, where, len(positions)), array.shape)
    row = {p: i for i, p in enumerate(positions)}
    absent = [p for p in where.positions if p not in row]
    if absent:
        raise SelectionError(
            f"`{name}` must hold position {absent[0]}. Got one with {_said(positions)}. "
            "Choose positions that it holds with `.at(..., pos=...)`, or capture more with `pos=`."
        )
    return where.take(array, [row[p] for p in where.positions])


def _refuse_other_length(name: str, array: mx.array, cache: ActivationSource, where: Where, remedy: str) -> None:
    prompt = where.span.prompt
    if prompt is not None and cache.n_positions != prompt:
        got = _with_length(array.shape, where, cache.n_positions)
        refuse_shape(name, _with_length(where.whole.shape, where, prompt), got, _unequal(got, where, remedy, prompt))


def batch_of(rows: int) -> str:
    """The numbers of rows that serve so many, in words."""
    return "1" if rows == 1 else f"1 or {rows}"


def _refuse_other_batch(name: str, array: mx.array, where: Where) -> None:
    if len(array.shape) == len(where.whole.shape) and array.shape[0] not in (1, where.whole.shape[0]):
        raise ShapeError(
            f"`{name}` must have a batch of {batch_of(where.whole.shape[0])}. Got {array.shape[0]}. "
            "Capture it with as many prompts."
        )


def _refuse_other_dims(name: str, array: mx.array, where: Where) -> None:
    wanted = where.whole.shape
    rest = [i for i in range(1, len(wanted)) if i != where.pos_axis]
    if len(array.shape) != len(wanted) or any(array.shape[i] != wanted[i] for i in rest):
        keys = "and over the same keys, in one pass" if where.site.axes[-1:] == ("key_pos",) else ""
        hint = f"The source must come from a model of the same width and heads {keys}".rstrip()
        refuse_shape(name, wanted, array.shape, f"{hint}.")


def _with_length(shape: tuple[int, ...], where: Where, length: int) -> tuple[int, ...]:
    return (*shape[: where.pos_axis], length, *shape[where.pos_axis + 1 :])


def _unequal(got: tuple[int, ...], where: Where, remedy: str, wanted: int | None = None) -> str:
    """What to do about another number of positions, if that is what differs."""
    whole, axis = where.whole.shape, where.pos_axis
    differs = len(got) == len(whole) > axis and got[axis] != (whole[axis] if wanted is None else wanted)
    return remedy if differs else ""


def _said(positions: tuple[int, ...]) -> str:
    if len(positions) > 3 and positions == tuple(range(positions[0], positions[-1] + 1)):
        return f"positions {positions[0]} to {positions[-1]}"
    return f"positions {list(positions)}"
