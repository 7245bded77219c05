"""Where a prompt may be split into pieces that run one after the other."""

from mlx_patch.architectures import Layout, can_be_split
from mlx_patch.execution.cells import goes_upwards
from mlx_patch.execution.readouts import Readout
from mlx_patch.interventions import BY_KEY, Edit, Span
from mlx_patch.sites import SITES


def works_in_pieces(edit: Edit, first_piece: Span) -> bool:
    """Whether an edit gives the same in pieces of the prompt: it is in the first, or its intervention allows pieces."""
    return all(_row_edit_works_in_pieces(row_edit, first_piece) for row_edit in edit.parts)


def _row_edit_works_in_pieces(edit: Edit, first_piece: Span) -> bool:
    if edit.site not in SITES or edit.site in BY_KEY:  # the keys of a piece are not those of the whole prompt
        return False
    if edit.pos is None:
        return edit.intervention.in_pieces
    n_positions_behind = (first_piece.prompt or 0) - first_piece.end
    behind_first_piece = Span(first_piece.end, n_positions_behind, first_piece.prompt, pieces=True)
    if not edit.intervention.by_position or behind_first_piece.local(edit.pos):
        return False
    return goes_upwards(edit, first_piece)


def split_points(layout: Layout, readout: Readout, start: int, length: int, piece: int) -> tuple[int, ...]:
    """The positions at which a run from `start` to the end is cut: every `piece`, and before the first that is read.

    Empty where the run is short, where a metric reads all positions, or where the prompt may not be split.
    """
    if readout.at is None or length - start <= piece or readout.first <= start or not can_be_split(layout):
        return ()
    return (*range(start + piece, readout.first, piece), readout.first)
