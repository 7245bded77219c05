"""Sources of an intervention's values: an activation cache, or an array."""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import mlx.core as mx
import numpy as np

from mlx_patch import arguments
from mlx_patch.errors import KindError, MissingSiteError, SelectionError, ShapeError, ValueRefusedError, shown
from mlx_patch.interventions._fitted import broadcasts, is_real
from mlx_patch.interventions._where import Where, refuse_no_positions, refuse_shape
from mlx_patch.sites import Site


@runtime_checkable
class ActivationSource(Protocol):
    """The interface that an intervention needs of an `ActivationCache`."""

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
"""The sources that `as_source` returns."""

SourceLike = Source | np.ndarray | float
"""The values that a caller may pass as a source."""


def as_source(name: str, value: object) -> Source:
    """A cache as it is; an array or a number as an mx array of floats, a new handle on it.

    Raises:
        KindError: It is neither a cache nor an array of real numbers.
    """
    if isinstance(value, float | int) and not isinstance(value, bool):
        value = np.asarray(arguments.number(name, value))
    if isinstance(value, np.ndarray | np.number):
        value = _from_numpy(name, arguments.numpy_array(name, value))
    if isinstance(value, mx.array):
        if not is_real(value.dtype):
            raise KindError(f"`{name}` must hold real numbers. Got {value.dtype}.")
        if mx.issubdtype(value.dtype, mx.floating):
            return value[...]
        return value.astype(mx.float32)
    if isinstance(value, ActivationSource):
        return value
    raise KindError(f"`{name}` must be an ActivationCache, an mx.array or a numpy array. Got {type(value).__name__}.")


def _from_numpy(name: str, array: np.ndarray) -> mx.array:
    if array.dtype.kind not in "fiu":
        raise KindError(f"`{name}` must hold real numbers. Got {array.dtype}.")
    if array.dtype != np.float16:
        with np.errstate(over="ignore"):  # the run refuses what is infinite
            array = array.astype(np.float32)
    return mx.array(array)


def describe(source: object) -> str:
    """A source in a few words, for a `repr`."""
    if isinstance(source, mx.array):
        dtype = str(source.dtype).removeprefix("mlx.core.")
        return f"array {tuple(source.shape)} {dtype}"
    return repr(source)


def serves_every_row(source: Source) -> bool:
    """Whether a source has one row, which serves every row of a run; False where that cannot be determined."""
    if isinstance(source, mx.array):
        return source.ndim < 2 or source.shape[0] == 1
    tokens = getattr(source, "tokens", None)
    return isinstance(tokens, mx.array) and tokens.ndim == 2 and tokens.shape[0] == 1


def check_source(name: str, source: Source, sites: Iterable[Site]) -> None:
    """Refuse a source that lacks a site or holds NaN, before anything is computed with it.

    Raises:
        MissingSiteError: The cache lacks one of `sites`.
        ValueRefusedError: It holds NaN; or it is an array, and holds infinity.
    """
    sites = tuple(sites)
    if isinstance(source, mx.array):
        arrays = {name: source}
    else:
        arrays = {str(site): _activation(name, source, site) for site in sites}
    holds_nan = {label: mx.any(mx.isnan(array)) for label, array in arrays.items()}
    is_infinite = mx.isinf
    if all(site.name == "attn_scores" for site in sites):  # where minus infinity is what a mask puts
        is_infinite = mx.isposinf
    holds_infinity = {label: mx.any(is_infinite(array)) for label, array in arrays.items()}
    mx.eval(holds_nan, holds_infinity)
    for label, is_nan in holds_nan.items():
        if is_nan.item():
            raise ValueRefusedError(f"`{name}` must not hold NaN. Got NaN in {label}. Check the run it came from.")
        if isinstance(source, mx.array) and holds_infinity[label].item():  # in a run, numbers may overflow
            raise ValueRefusedError(f"`{name}` must be finite. Got infinity in {label}.")


def _activation(name: str, source: ActivationSource, site: Site) -> mx.array:
    """The source's activation at a site, refused if it has none."""
    if site not in source:
        raise MissingSiteError(
            f"`{name}` must hold {site}. Got {shown(source)}. Capture it with `run_with_cache(..., sites=...)`."
        )
    return source[site]


def values_of(name: str, source: Source, activation: mx.array, where: Where) -> mx.array:
    """The source's values for the picked part, in the shape and dtype of the picked activation.

    An array may have the whole activation's shape (the same part is taken from it), that of the whole prompt's where
    the prompt comes in pieces, or one that broadcasts to the picked part. A batch of 1 serves every row.

    Raises:
        ShapeError: The shapes do not fit.
        SelectionError: The source does not hold a picked position.
    """
    if isinstance(source, mx.array):
        values = _values_of_array(name, source, activation, where)
    else:
        array = _activation(name, source, where.site)
        _refuse_other_length(name, array, source, where, _ALIGN)
        _refuse_other_batch(name, array, where)
        values = _at_positions(name, array, source.positions, where)
    values = mx.broadcast_to(values, activation.shape)
    if mx.issubdtype(activation.dtype, mx.floating):
        return values.astype(activation.dtype)
    return values  # `fitted` refuses floats among integers


_ALIGN = (
    "The two prompts differ in length: say which position stands for which, "
    "`mp.Replace(cache, positions=mp.align(clean, corrupted))`."
)
_OF_THIS_LENGTH = (
    "It has one value per position: take it from prompts of this length. For a mean, take it over all positions, "
    '`over="batch_pos"`, or for one length, `store.mean("batch", n_positions=...)`.'
)


def source_rows(name: str, source: Source, where: Where) -> mx.array:
    """The source's values for the picked part in every row of its own batch, which may be of any size.

    Raises:
        ShapeError: The shapes do not fit.
        SelectionError: The source does not hold a picked position.
    """
    where = where.every_row()
    if not isinstance(source, mx.array):
        array = _activation(name, source, where.site)
        _refuse_other_length(name, array, source, where, _OF_THIS_LENGTH)
        return _at_positions(name, array, source.positions, where)
    shape = where.whole.shape
    if source.shape[1:] == shape[1:]:
        return where.take(source)
    prompt = where.span.prompt
    if prompt is not None and source.shape[1:] == _with_length(shape, where, prompt)[1:]:
        return _at_positions(name, source, tuple(range(prompt)), where)
    hint = _length_hint(source.shape, where, _OF_THIS_LENGTH)
    refuse_shape(name, (None, *shape[1:]), source.shape, hint)


def whole_of(name: str, source: Source, where: Where) -> mx.array:
    """The source's whole activation at the site, of any batch and any length.

    Raises:
        ShapeError: The other axes differ from the activation's.
    """
    array = source if isinstance(source, mx.array) else _activation(name, source, where.site)
    _refuse_other_dims(name, array, where)
    return array


def _values_of_array(name: str, array: mx.array, activation: mx.array, where: Where) -> mx.array:
    shape = where.whole.shape
    if _fits(array.shape, shape):
        return where.take(array)
    prompt = where.span.prompt
    if prompt is not None and _fits(array.shape, _with_length(shape, where, prompt)):
        return _at_positions(name, array, tuple(range(prompt)), where)
    if not broadcasts(array.shape, activation.shape):
        if activation.shape != shape:
            hint = f"The picked part has shape {activation.shape}."
        else:
            hint = _length_hint(array.shape, where, _ALIGN)
        refuse_shape(name, shape, array.shape, hint)
    return array


def _fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether a shape is the expected one, or has a batch of 1 instead."""
    if shape == expected:
        return True
    return len(shape) == len(expected) > 1 and shape[0] == 1 and shape[1:] == expected[1:]


def _at_positions(name: str, array: mx.array, positions: tuple[int, ...], where: Where) -> mx.array:
    """The picked part of an array that holds these absolute positions."""
    span, shape = where.span, where.whole.shape
    if positions == tuple(range(span.offset, span.end)) and array.shape[1:] == shape[1:]:
        return where.take(array)
    refuse_no_positions(where.site, shape, span)
    _refuse_other_dims(name, array, where)
    if array.shape[where.pos_axis] != len(positions):
        refuse_shape(name, _with_length(shape, where, len(positions)), array.shape)
    index = {position: number for number, position in enumerate(positions)}
    for position in where.positions:
        if position not in index:
            raise SelectionError(
                f"`{name}` must hold position {position}. Got one with {_format_positions(positions)}. "
                "Choose positions that it holds with `.at(..., pos=...)`, or capture more with `pos=`."
            )
    return where.take(array, [index[position] for position in where.positions])


def _refuse_other_length(name: str, array: mx.array, cache: ActivationSource, where: Where, remedy: str) -> None:
    prompt = where.span.prompt
    if prompt is not None and cache.n_positions != prompt:
        expected = _with_length(where.whole.shape, where, prompt)
        shape = _with_length(array.shape, where, cache.n_positions)
        refuse_shape(name, expected, shape, _length_hint(shape, where, remedy, prompt))


def batch_of(rows: int) -> str:
    """The batch sizes that serve so many rows, in words."""
    if rows == 1:
        return "1"
    return f"1 or {rows}"


def _refuse_other_batch(name: str, array: mx.array, where: Where) -> None:
    rows = where.whole.shape[0]
    if array.ndim == where.whole.ndim and array.shape[0] not in (1, rows):
        raise ShapeError(
            f"`{name}` must have a batch of {batch_of(rows)}. Got {array.shape[0]}. Capture it with as many prompts."
        )


def _refuse_other_dims(name: str, array: mx.array, where: Where) -> None:
    """Refuse an array that differs from the activation in other axes than batch and position."""
    shape, pos_axis = array.shape, where.pos_axis
    expected = where.whole.shape
    if len(shape) == len(expected):
        same_before = shape[1:pos_axis] == expected[1:pos_axis]
        same_behind = shape[pos_axis + 1 :] == expected[pos_axis + 1 :]
        if same_before and same_behind:
            return
    hint = "The source must come from a model of the same width and heads"
    if where.site.axes[-1:] == ("key_pos",):
        hint += " and over the same keys, in one pass"
    refuse_shape(name, expected, shape, f"{hint}.")


def _with_length(shape: tuple[int, ...], where: Where, length: int) -> tuple[int, ...]:
    return (*shape[: where.pos_axis], length, *shape[where.pos_axis + 1 :])


def _length_hint(shape: tuple[int, ...], where: Where, remedy: str, length: int | None = None) -> str:
    """The remedy for another number of positions, if that is how the shapes differ; otherwise empty.

    `length` is the expected number; None is the activation's.
    """
    expected, axis = where.whole.shape, where.pos_axis
    if len(shape) != len(expected) or len(expected) <= axis:
        return ""
    if length is None:
        length = expected[axis]
    return remedy if shape[axis] != length else ""


def _format_positions(positions: tuple[int, ...]) -> str:
    if len(positions) > 3:
        first, last = positions[0], positions[-1]
        if positions == tuple(range(first, last + 1)):
            return f"positions {first} to {last}"
    return f"positions {list(positions)}"
