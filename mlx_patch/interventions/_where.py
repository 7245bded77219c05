"""`Where`: the picked part of an activation, and the same part of other arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import mlx.core as mx

from mlx_patch.errors import SelectionError, ShapeError, shape_words
from mlx_patch.interventions._span import Span
from mlx_patch.sites import Site

Pick = tuple[int, ...] | None
"""The chosen indices along one axis; None is all of them."""

_RAW_AXES = ("batch", "pos")
_POSITION_AXES = ("pos", "query_pos")


@dataclass(frozen=True)
class Where:
    """The part of one activation that an intervention changes.

    Attributes:
        site: The site.
        whole: The whole activation, with the axes of the site.
        picks: The chosen indices, one entry per axis.
        span: The positions of this forward pass.
    """

    site: Site
    whole: mx.array
    picks: tuple[Pick, ...]
    span: Span

    @property
    def pos_axis(self) -> int:
        """The axis along which positions run."""
        return pos_axis(self.site)

    @property
    def everything(self) -> bool:
        """Whether nothing is left out."""
        return all(pick is None for pick in self.picks)

    @property
    def rows(self) -> tuple[int, ...]:
        """The rows of the batch that were picked."""
        picked_rows = self.picks[0]
        if picked_rows is None:
            return tuple(range(self.whole.shape[0]))
        return picked_rows

    @property
    def positions(self) -> tuple[int, ...]:
        """The absolute positions that were picked.

        Raises:
            SelectionError: The position axis does not hold the positions of this pass.
        """
        refuse_no_positions(self.site, self.whole.shape, self.span)
        indices = self.picks[self.pos_axis]
        if indices is None:
            indices = range(self.span.length)
        return tuple(self.span.offset + index for index in indices)

    def every_row(self) -> "Where":
        """The same part, of the whole batch."""
        return replace(self, picks=(None, *self.picks[1:]))

    def own(self) -> mx.array:
        """The picked part of the activation itself: another handle, so that writing to it leaves the old one alone."""
        return self.whole[index_of(self.picks, self.whole.shape)]

    def take(self, array: mx.array, rows: Sequence[int] | None = None) -> mx.array:
        """The same part of another array with the activation's axes.

        Args:
            array: Its batch axis may be 1, which serves every row.
            rows: The indices along its position axis that stand for `positions`, where they differ from ours.
        """
        picks = list(self.picks)
        if array.shape[0] == 1:
            picks[0] = None
        if rows is not None:
            picks[self.pos_axis] = tuple(rows)
        return array[index_of(tuple(picks), array.shape)]

    def put(self, value: mx.array) -> mx.array:
        """The activation with `value` in the picked part: a new array, the old one is left alone."""
        if self.everything:
            return value
        out = mx.array(self.whole)
        out[index_of(self.picks, self.whole.shape)] = value
        return out


@dataclass(frozen=True)
class ActivationChange:
    """New values for a part of an activation.

    Attributes:
        where: The part.
        value: The values, in its shape and dtype.
    """

    where: Where
    value: mx.array

    def put(self, array: mx.array) -> mx.array:
        """An array of the activation's shape with the new values in the part: a new one."""
        return replace(self.where, whole=array).put(self.value)

    def of_rows(self, rows: tuple[int, ...]) -> "ActivationChange":
        """The part of the change that is in some of its rows of the batch."""
        picked_rows = self.where.rows
        if picked_rows == rows:
            return self
        picks: list[Pick] = [None] * self.value.ndim
        picks[0] = tuple(picked_rows.index(row) for row in rows)
        value = self.value[index_of(tuple(picks), self.value.shape)]
        where = replace(self.where, picks=(rows, *self.where.picks[1:]))
        return ActivationChange(where, value)

    def within(self, larger: mx.array) -> "ActivationChange":
        """The same change of a larger activation, which begins with the present one along each axis."""
        picks = list(self.where.picks)
        for axis, size in enumerate(self.where.whole.shape):
            if picks[axis] is None and size < larger.shape[axis]:
                picks[axis] = tuple(range(size))
        where = replace(self.where, whole=larger, picks=tuple(picks))
        return ActivationChange(where, self.value)


def pos_axis(site: Site) -> int:
    """The axis along which the positions of a site run; 1 for a raw one."""
    for number, axis in enumerate(site.axes):
        if axis in _POSITION_AXES:
            return number
    return 1


def axis_of(site: Site, name: str) -> int:
    """The axis that `batch`, `pos`, `head`, `neuron` or `key` chooses from; -1 where the site has none.

    `neuron` is the last axis, whatever it counts: neurons, coordinates of the stream, experts.
    """
    if name == "pos":
        return pos_axis(site)
    if name == "neuron":
        return _last_axis(site)
    if name == "key":
        return len(site.axes) - 1 if site.axes[-1:] == ("key_pos",) else -1
    axes = site.axes or _RAW_AXES
    return axes.index(name) if name in axes else -1


def _last_axis(site: Site) -> int:
    if not site.axes:
        return len(_RAW_AXES)
    if site.axes[-1] == "key_pos":
        return -1
    return len(site.axes) - 1


def refuse_no_positions(site: Site, shape: tuple[int, ...], span: Span) -> None:
    """Refuse to choose positions along an axis that does not hold those of this pass.

    Raises:
        SelectionError: It does not: a raw path into a module that is given its tokens in a heap, say.
    """
    axis = pos_axis(site)
    if axis >= len(shape) or shape[axis] != span.length:
        raise SelectionError(
            f"`site` must have the {span.length} positions of this pass along axis {axis}, for an edit by position. "
            f"Got {site}, of shape {shape}. Leave `pos` out, or choose a named site."
        )


def index_of(picks: tuple[Pick, ...], shape: tuple[int, ...]) -> tuple:
    """An index that picks the cross product of `picks`, made of slices wherever they are contiguous.

    Raises:
        SelectionError: A pick lies past the edge, where mlx would read or write whatever is there.
    Example:
        >>> index_of((None, (2, 3), None), (1, 5, 8))
        (slice(None, None, None), slice(2, 4, None))
    """
    chosen = [axis for axis, pick in enumerate(picks) if pick is not None]
    for axis in chosen:
        _refuse_past(picks[axis], axis, shape)
    if not chosen:
        return (slice(None),)
    slices = [_as_slice(pick) for pick in picks[: chosen[-1] + 1]]
    if None not in slices:
        return tuple(slices)
    # Arrays of indices pick a cross product only where each lies along an axis of its own, from the first on.
    first, last = chosen[0], chosen[-1]
    mesh = []
    for axis in range(first, last + 1):
        indices = picks[axis]
        if indices is None:
            indices = tuple(range(shape[axis]))
        mesh.append(_along(indices, axis - first, last - first))
    return (slice(None),) * first + tuple(mesh)


def _refuse_past(pick: Pick, axis: int, shape: tuple[int, ...]) -> None:
    if pick and not (axis < len(shape) and 0 <= min(pick) and max(pick) < shape[axis]):
        raise SelectionError(f"`picks` must lie inside the shape {shape}. Got {pick} along axis {axis}.")


def _along(indices: tuple[int, ...], axis: int, last: int) -> mx.array:
    shape = [1] * (last + 1)
    shape[axis] = -1
    return mx.array(list(indices), dtype=mx.int32).reshape(shape)


def _as_slice(pick: Pick) -> slice | None:
    if pick is None:
        return slice(None)
    start, end = pick[0], pick[0] + len(pick)
    if pick == tuple(range(start, end)):
        return slice(start, end)
    return None


def refuse_shape(name: str, expected: tuple[int | None, ...], shape: tuple[int, ...], hint: str = "") -> NoReturn:
    """Raise a `ShapeError` in the library's words. Where `expected` has None, any length would do."""
    raise ShapeError(f"`{name}` must have the activation's shape {shape_words(expected)}. Got {shape}. {hint}".rstrip())
