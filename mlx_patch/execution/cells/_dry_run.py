"""Checks of cells before a pass runs: their edits on zeros of the right shapes, their sources for what they hold."""

from collections.abc import Hashable, Iterator, Mapping, Sequence

import mlx.core as mx

from mlx_patch.architectures import Layout, refuse_parts
from mlx_patch.execution.cells._cell import Cell, places_of
from mlx_patch.execution.cells._shapes import Shapes
from mlx_patch.interventions import Edit, Span, Transformation, axis_of
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
    zeros = {site: shapes.zeros(site, batch, length) for site in sites}
    zeros_at = {site: array for site, array in zeros.items() if array is not None}
    edits_at = [
        (edit, site) for cell in cells for edit in cell.edits for site in places_of(layout, edit) if site in zeros_at
    ]
    span = Span(0, length, length)
    for edit, site in _fewest(edits_at, zeros_at, span):
        edit.apply(zeros_at[site], site, span)


def _fewest(
    edits_at: Sequence[tuple[Edit, Site]], zeros_at: Mapping[Site, mx.array], span: Span
) -> Iterator[tuple[Edit, Site]]:
    """The edits that must be tried. Of those that do the same to other heads or neurons, the ones furthest along.

    If the head or neuron with the largest number fits, so do all before it. The numbers of all are checked here.

    Raises:
        SelectionError: A position, head, neuron or row that is not there.
    """
    furthest: dict[Hashable, tuple[int, Edit, Site]] = {}
    for edit, site in edits_at:
        if type(edit) is not Edit or edit.steps is not None or not edit.intervention.elementwise:
            yield edit, site
            continue
        picks: list[Hashable] = list(edit.picks(zeros_at[site].shape, site, span))
        numbers = []
        for axis in {axis_of(site, "head"), axis_of(site, "neuron")}:
            pick = picks[axis]
            if axis > 0 and isinstance(pick, tuple):
                picks[axis] = len(pick)
                numbers.append((axis, max(pick)))
        for axis, number in numbers or [(0, 0)]:
            kind = (id(edit.intervention), site, axis, *picks)
            if kind not in furthest or furthest[kind][0] < number:
                furthest[kind] = (number, edit, site)
    for _, edit, site in furthest.values():
        yield edit, site
