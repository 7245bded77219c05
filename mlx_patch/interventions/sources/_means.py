"""Statistics of whole activations, in float32."""

from bisect import bisect_left
from collections.abc import Sequence

import mlx.core as mx

from mlx_patch.errors import ValueRefusedError
from mlx_patch.interventions._fitted import wide
from mlx_patch.interventions._where import Where, index_of, refuse_no_positions
from mlx_patch.interventions.sources._source import Source, source_rows, whole_of


def mean_over(array: mx.array, axes: tuple[int, ...]) -> mx.array:
    """The mean over some axes, which stay with size 1. Of a half type, in float32.

    One axis after the other: on the CPU a sum of 2**24 ones or more in one go is 2**24.

    Example:
        >>> mean_over(mx.array([[1.0, 2.0], [3.0, 6.0]]), (0, 1)).item()
        3.0
    """
    array = wide(array)
    for axis in sorted(axes, reverse=True):
        array = mx.mean(array, axis=axis, keepdims=True)
    return array


def deviation(array: mx.array) -> mx.array:
    """The standard deviation of all entries, in float32; every axis stays with size 1."""
    axes = tuple(range(array.ndim))
    centred = wide(array) - mean_over(array, axes)
    return mx.sqrt(mean_over(centred * centred, axes))


def batch_mean(source: Source | None, where: Where) -> mx.array:
    """The mean over the batch, for each position, of the picked part."""
    if source is not None:
        return mean_over(source_rows("source", source, where), (0,))
    _refuse_single(where, "batch", (0,))
    return mean_over(where.every_row().own(), (0,))


def overall_mean(source: Source | None, where: Where, skip: int = 0) -> mx.array:
    """The one mean over batch and positions, of the picked heads and neurons.

    Args:
        source: The activations to average; None is the run's own.
        where: The picked part.
        skip: Positions before this one are left out.
    """
    refuse_no_positions(where.site, where.whole.shape, where.span)
    axes = (0, where.pos_axis)
    if source is None:
        _refuse_single(where, "batch_pos", axes)
        array, positions = where.whole, own_positions(where)
    else:
        array = whole_of("source", source, where)
        positions = positions_of(source, array.shape[where.pos_axis])
    array, _ = without_first(array, where.pos_axis, positions, skip)
    mean = mean_over(array, axes)
    picks = list(where.picks)
    for axis in axes:
        picks[axis] = None
    return mean[index_of(tuple(picks), mean.shape)]


def own_positions(where: Where) -> range:
    """The absolute positions of a run's own activation."""
    return range(where.span.offset, where.span.end)


def positions_of(source: Source, length: int) -> Sequence[int]:
    """The absolute positions along the position axis of a source's activation; those of an array begin at 0."""
    if isinstance(source, mx.array) or len(source.positions) != length:
        return range(length)
    return source.positions


def without_first(array: mx.array, axis: int, positions: Sequence[int], skip: int) -> tuple[mx.array, Sequence[int]]:
    """An activation from position `skip` on, and the remaining positions.

    Args:
        array: The activation.
        axis: The axis along which positions run.
        positions: The absolute positions along it, in order.
        skip: The first position that stays.
    Raises:
        ValueRefusedError: None stays.
    """
    first = bisect_left(positions, skip)
    if first == 0:
        return array, positions
    if first == len(positions):
        raise ValueRefusedError(
            f"`skip` must leave a position to average. Got {skip}, with positions up to {positions[-1]}. Skip fewer, "
            "or capture longer prompts."
        )
    index = (slice(None),) * axis + (slice(first, None),)
    return array[index], positions[first:]


def _refuse_single(where: Where, over: str, axes: tuple[int, ...]) -> None:
    """Refuse a mean of a single value, which would change nothing."""
    if all(where.whole.shape[axis] == 1 for axis in axes):
        size = "one row" if over == "batch" else "one row of one position"
        raise ValueRefusedError(
            f"`source` must be given if the run has {size}: its mean over {over!r} would change nothing. Got None. "
            "Pass the cache of several prompts."
        )
