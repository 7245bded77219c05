"""Where the rows of a cell enter the model, and what they enter with."""

from collections.abc import Sequence

from mlx_patch.architectures import Layout
from mlx_patch.execution.cells._cell import Cell, places_of
from mlx_patch.interventions import Edit
from mlx_patch.sites import Site


def stream_before(layer: int) -> Site | None:
    """The stream that leaves the block before a layer; None before the first."""
    if layer == 0:
        return None
    return Site("resid_post", layer - 1)


def edits_before_entry(cell: Cell, layout: Layout, entry: int) -> tuple[Edit, ...]:
    """The edits of a cell that act before its row enters: those of the stream that leaves the block before."""
    return tuple(edit for edit in cell.edits if stream_before(entry) in places_of(layout, edit))


def unpatched_sites(layout: Layout, cells: Sequence[Cell]) -> tuple[Site, ...]:
    """The sites of the unpatched run whose activations the rows of some cells enter with."""
    sites: dict[Site, None] = {}
    for cell in cells:
        layer = cell.entry or 0
        edits = edits_before_entry(cell, layout, layer)
        if not edits:
            sites[unpatched_site(layout, layer)] = None
        elif not _replaces_all(edits[0]):
            sites[Site("resid_post", layer - 1)] = None
    return tuple(sites)


def unpatched_site(layout: Layout, layer: int) -> Site:
    """Where the unpatched stream that enters a block, or the final norm, is read."""
    if layer < len(layout.blocks):
        return Site("resid_pre", layer)
    return Site("resid_post", layer - 1)


def _replaces_all(edit: Edit) -> bool:
    """Whether nothing of the activation is left after an edit, so that it need not be computed."""
    if type(edit) is not Edit:  # other kinds of edit leave a part of the run as it is
        return False
    selections = (edit.pos, edit.head, edit.neuron, edit.batch, edit.key)
    return edit.intervention.overwrites and all(selection is None for selection in selections)
