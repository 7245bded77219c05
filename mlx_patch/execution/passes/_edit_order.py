"""The edits of all cells of a pass, in one order of sites that suits every cell."""

from collections.abc import Iterator, Sequence

from mlx_patch.architectures import Layout
from mlx_patch.execution.cells import Cell, places_of, standing_in_rows, stream_before
from mlx_patch.interventions import Edit
from mlx_patch.sites import Site

SiteEdits = tuple[Site, dict[int, list[Edit]]]
"""A site, and the edits that each cell makes there, by the cell's index in the pass."""


def order_edits(layout: Layout, cells: Sequence[Cell], entries: Sequence[int], grow: bool = True) -> list[SiteEdits]:
    """The edits of all cells, one entry per site, in an order that keeps the order of each cell's own edits."""
    # Two sites can be the same place of the model, such as `embed` and the first `resid_pre`. There the entries act
    # in the order of this list, while each cell has the order that its edits were given in. So an edit never goes to
    # an entry before that of the edit before it: `turn` is where the search for its site begins. If no entry from
    # there on has the site, the list gets a second entry of it. Cells whose edits agree in order, which is nearly all
    # of them, share every entry.
    site_edits: list[SiteEdits] = []
    for index, (cell, entry) in enumerate(zip(cells, entries, strict=True)):
        turn = 0
        for site, edit in edits_after_entry(layout, cell, entry, grow):
            turn = _find_turn(site_edits, site, turn)
            if turn == len(site_edits):
                site_edits.append((site, {}))
            _, edits_by_cell = site_edits[turn]
            edits_by_cell.setdefault(index, []).append(edit)
    return site_edits


def edits_after_entry(layout: Layout, cell: Cell, entry: int, grow: bool = True) -> Iterator[tuple[Site, Edit]]:
    """The edits of a cell with each of their sites, but for those that act before its rows enter; standing ones first.

    Args:
        layout: The model's layout.
        cell: The cell.
        entry: The block at which its rows enter.
        grow: Whether they enter with the stream of the unpatched run, and not with the tokens.
    """
    yield from standing_in_rows(layout, cell, entry, grow)
    for edit in cell.edits:
        for site in places_of(layout, edit):
            if site != stream_before(entry):
                yield site, edit


def _find_turn(site_edits: Sequence[SiteEdits], site: Site, first: int) -> int:
    """The index of the first entry of a site, from an index on; the number of entries where there is none."""
    for turn in range(first, len(site_edits)):
        if site_edits[turn][0] == site:
            return turn
    return len(site_edits)
