"""Where the rows of a cell enter the model, and what they enter with."""

from collections.abc import Sequence

from mlx_patch.architectures import Layout
from mlx_patch.execution.cells._cell import Cell, places_of
from mlx_patch.interventions import Edit, Replace
from mlx_patch.sites import Site


def stream_before(layer: int) -> Site | None:
    """The stream that leaves the block before a layer; None before the first."""
    return Site("resid_post", layer - 1) if layer else None


def edits_before_entry(cell: Cell, layout: Layout, entry: int) -> tuple[Edit, ...]:
    """The edits of a cell that are made before its row enters: of the stream that leaves the block before."""
    return tuple(edit for edit in cell.edits if stream_before(entry) in places_of(layout, edit))


def unpatched_sites(layout: Layout, cells: Sequence[Cell]) -> tuple[Site, ...]:
    """The sites at which rows enter with something of the unedited run's."""
    found: dict[Site, None] = {}
    for cell in cells:
        layer = cell.entry or 0
        edits = edits_before_entry(cell, layout, layer)
        if not edits:
            found[unpatched_site(layout, layer)] = None
        elif not _replaces_all(edits[0]):
            found[Site("resid_post", layer - 1)] = None
    return tuple(found)


def unpatched_site(layout: Layout, layer: int) -> Site:
    """Where the unedited stream that enters a block, or the final norm, is read."""
    return Site("resid_pre", layer) if layer < len(layout.blocks) else Site("resid_post", layer - 1)


def _replaces_all(edit: Edit) -> bool:
    chosen = (edit.pos, edit.head, edit.neuron, edit.batch)
    whole = type(edit) is Edit  # others leave a part of the run as it is
    return whole and isinstance(edit.intervention, Replace) and all(part is None for part in chosen)
