"""Cells tried before anything long is run: on zeros of the right shapes, and their sources for what they hold."""

from collections.abc import Sequence

from mlx_patch.architectures import Layout, refuse_parts
from mlx_patch.execution.cells._cell import Cell, places_of
from mlx_patch.execution.cells._shapes import Shapes
from mlx_patch.interventions import Span, Transformation
from mlx_patch.sites import Site


def check_sources(layout: Layout, cells: Sequence[Sequence[Cell]]) -> None:
    """Check each intervention once, for all sites that it is used at.

    Raises:
        MissingSiteError: A source lacks a site, or the model is sharded and has only a part of one here.
        ValueRefusedError: A source holds NaN, or the intervention means nothing at one of the sites.
    """
    used: dict[int, tuple[Transformation, dict[Site, None]]] = {}
    for edit in (edit for of_batch in cells for cell in of_batch for whole in cell.edits for edit in whole.parts):
        _, sites = used.setdefault(id(edit.intervention), (edit.intervention, {}))
        sites.update(dict.fromkeys(places_of(layout, edit)))
    for intervention, sites in used.values():
        refuse_parts(layout, map(layout.place, sites))
        intervention.check(tuple(sites))


def refuse_misfits(shapes: Shapes, size: Sequence[int], cells: Sequence[Cell]) -> None:
    """Try every edit on zeros that are never computed, so that what does not fit is refused before a pass is run.

    Args:
        shapes: The shapes of the model's activations; those that the cells need are learnt.
        size: The rows and positions of the prompts.
        cells: What is tried.
    Raises:
        UnknownNameError: A raw path leads nowhere.
        ShapeError, SelectionError, KindError: As the edit says when it runs.
    """
    batch, length = size
    wanted = [site for cell in cells for edit in cell.edits for site in places_of(shapes.layout, edit)]
    for site in dict.fromkeys(wanted):
        shapes.layout.place(site)
    shapes.learn(wanted)
    blank = {site: shapes.zeros(site, batch, length) for site in dict.fromkeys(wanted)}
    for cell in cells:
        for edit in cell.edits:
            for site in places_of(shapes.layout, edit):
                if (zeros := blank[site]) is not None:
                    edit.apply(zeros, site, Span(0, length, length))
