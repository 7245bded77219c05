"""Checks of cells before a pass runs: their edits on zeros of the right shapes, their sources for what they hold."""

from collections.abc import Iterator, Sequence

from mlx_patch.architectures import Layout, refuse_parts
from mlx_patch.execution.cells._cell import Cell, places_of
from mlx_patch.execution.cells._shapes import Shapes
from mlx_patch.interventions import Edit, Span, Transformation
from mlx_patch.sites import Site


def check_sources(layout: Layout, cells: Sequence[Sequence[Cell]]) -> None:
    """Check each intervention once, for all sites that it is used at.

    Raises:
        MissingSiteError: A source lacks a site, or the model is sharded and has only a part of one here.
        ValueRefusedError: A source holds NaN, or the intervention means nothing at one of the sites.
    """
    sites_by_intervention: dict[int, tuple[Transformation, dict[Site, None]]] = {}
    for edit in _single_edits(cells):
        intervention = edit.intervention
        _, sites = sites_by_intervention.setdefault(id(intervention), (intervention, {}))
        sites.update(dict.fromkeys(places_of(layout, edit)))
    for intervention, sites in sites_by_intervention.values():
        refuse_parts(layout, map(layout.place, sites))
        intervention.check(tuple(sites))


def _single_edits(cells: Sequence[Sequence[Cell]]) -> Iterator[Edit]:
    """Every edit of every cell of every group of prompts; of one that differs by row, those of the rows."""
    for group_cells in cells:
        for cell in group_cells:
            for edit in cell.edits:
                yield from edit.parts


def refuse_misfits(shapes: Shapes, size: Sequence[int], cells: Sequence[Cell]) -> None:
    """Apply every edit to zeros that are never computed, so that a misfit is refused before a pass runs.

    Args:
        shapes: The shapes of the model's activations; it learns those that the cells need.
        size: The rows and positions of the prompts.
        cells: The cells to try.
    Raises:
        UnknownNameError: A raw path leads nowhere.
        ShapeError, SelectionError, KindError: As the edit says when it runs.
    """
    batch, length = size
    layout = shapes.layout
    sites = list(dict.fromkeys(site for cell in cells for edit in cell.edits for site in places_of(layout, edit)))
    for site in sites:
        layout.place(site)
    shapes.learn(sites)
    zeros_at = {site: shapes.zeros(site, batch, length) for site in sites}
    for cell in cells:
        for edit in cell.edits:
            for site in places_of(layout, edit):
                zeros = zeros_at[site]
                if zeros is not None:
                    edit.apply(zeros, site, Span(0, length, length))
