"""Where a prompt may be split into pieces that run one after the other."""

import mlx.core as mx

from mlx_patch.architectures import Layout, can_be_split
from mlx_patch.execution.cells import goes_upwards
from mlx_patch.execution.readouts import Readout
from mlx_patch.interventions import BY_KEY, Edit, Interpolate, Replace, Span
from mlx_patch.sites import SITES


def works_in_pieces(edit: Edit, first: Span) -> bool:
    """Whether an edit can be made in pieces of the prompt: it is in the first, or takes each position from a cache."""
    return all(_part_can_be_cut(part, first) for part in edit.parts)


def _part_can_be_cut(edit: Edit, first: Span) -> bool:
    if edit.site not in SITES or edit.site in BY_KEY:  # the keys of a piece are not those of the whole prompt
        return False
    if edit.pos is not None:
        last = Span(first.end, (first.prompt or 0) - first.end, first.prompt, pieces=True)
        return edit.intervention.by_position and not last.local(edit.pos) and goes_upwards(edit, first)
    source = getattr(edit.intervention, "source", None)
    return isinstance(edit.intervention, Replace | Interpolate) and not isinstance(source, mx.array)


def split_points(layout: Layout, readout: Readout, start: int, length: int, piece: int) -> tuple[int, ...]:
    """The positions at which a run from `start` to the end is cut: every so many, and before the first that is read.

    None where the run is short, where a metric reads all positions, or where the prompt may not be split.
    """
    if readout.at is None or length - start <= piece or readout.first <= start or not can_be_split(layout):
        return ()
    return (*range(start + piece, readout.first, piece), readout.first)
