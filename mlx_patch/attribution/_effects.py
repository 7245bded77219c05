"""Effects of cells: what each entry of an activation contributes, summed over the places that a cell edits."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_patch.architectures import Layout
from mlx_patch.attribution._gradients import SiteGradient
from mlx_patch.execution.cells import Cell, Together, may_go_together, never_picked, places_of
from mlx_patch.interventions import Edit, Pick, Span
from mlx_patch.sites import Site

_AT_ONCE = 64
"""Cells whose changes are computed by_intervention."""


@dataclass(frozen=True, eq=False)
class EditsAtSite:
    """What one cell does at one site.

    Attributes:
        cell: The number of the cell.
        edits: Its edits there, in order.
    """

    cell: int
    edits: tuple[Edit, ...]


CellEffects = Iterator[tuple[int, np.ndarray]]
"""The effect of cells at one site, shape `(metric, batch)`, each with the number of its cell."""

EffectsAt = Callable[[Site, Sequence[EditsAtSite]], CellEffects]


def sum_over_sites(
    layout: Layout, cells: Sequence[Cell], effects_at: EffectsAt, n_metrics: int, batch: int
) -> np.ndarray:
    """The effect of every cell: the sum over the sites that it edits.

    Args:
        layout: The model's layout.
        cells: The cells.
        effects_at: The effects of cells at one site.
        n_metrics: The number of metrics.
        batch: The number of rows.
    Returns:
        Float64. Shape `(cell, metric, batch)`.
    """
    effects = np.zeros((len(cells), n_metrics, batch))
    for site, cell_edits in edits_by_site(layout, cells).items():
        for number, effect in effects_at(site, cell_edits):
            effects[number] += effect
    return effects


def edits_by_site(layout: Layout, cells: Sequence[Cell]) -> dict[Site, list[EditsAtSite]]:
    """What each cell does at each site that any cell edits."""
    by_site: dict[Site, list[EditsAtSite]] = {}
    for number, cell in enumerate(cells):
        of_cell: dict[Site, list[Edit]] = {}
        for edit in cell.edits:
            for site in places_of(layout, edit):
                of_cell.setdefault(site, []).append(edit)
        for site, edits in of_cell.items():
            by_site.setdefault(site, []).append(EditsAtSite(number, tuple(edits)))
    return by_site


def first_order(gradients: Mapping[Site, SiteGradient], span: Span) -> EffectsAt:
    """The gradient times the change that each cell's edits make to the activation.

    Args:
        gradients: At every site that a cell edits.
        span: The positions of the activations.
    """

    def effects_at(site: Site, of_cells: Sequence[EditsAtSite]) -> CellEffects:
        one_by_one: list[EditsAtSite] = []
        by_intervention: dict[int, list[EditsAtSite]] = {}
        for cell_edits in of_cells:
            if may_go_together(cell_edits.edits):
                by_intervention.setdefault(id(cell_edits.edits[0].intervention), []).append(cell_edits)
            else:
                one_by_one.append(cell_edits)
        for group in by_intervention.values():
            yield from _effects_together(site, gradients[site], group, span)
        yield from _effects_apart(site, gradients[site], one_by_one, span)

    return effects_at


def _effects_apart(site: Site, gradient: SiteGradient, of_cells: Sequence[EditsAtSite], span: Span) -> CellEffects:
    """The effects of cells each of whose changes is computed by itself."""
    for begin in range(0, len(of_cells), _AT_ONCE):
        some = of_cells[begin : begin + _AT_ONCE]
        sums = []
        for cell_edits in some:
            product = _product(gradient, _edited(gradient.unpatched, cell_edits.edits, site, span))
            sums.append(product.reshape(*product.shape[:2], -1).sum(axis=-1))
        for cell_edits, effect in zip(some, np.array(mx.stack(sums)), strict=True):
            yield cell_edits.cell, effect


def _edited(unpatched: mx.array, edits: Sequence[Edit], site: Site, span: Span) -> mx.array:
    """An activation after some edits, one after the other."""
    activation = unpatched
    for edit in edits:
        edited = edit.apply(activation, site, span)
        if edited is not None:
            activation = edited
    return activation


def _product(gradient: SiteGradient, new: mx.array) -> mx.array:
    """Gradient times change, in float32. Shape `(metric, *unpatched.shape)`."""
    change = new.astype(mx.float32) - gradient.unpatched.astype(mx.float32)
    slope = gradient.gradient.astype(mx.float32)
    return mx.where(slope == 0, 0, slope * change)  # masked scores are infinite, and nothing depends on them


def _effects_together(site: Site, gradient: SiteGradient, of_cells: Sequence[EditsAtSite], span: Span) -> CellEffects:
    """The effects of cells that do the same at different entries: the change of all entries is computed once."""
    together = Together(site, [cell_edits.edits[0] for cell_edits in of_cells], span)
    new = together.apply(gradient.unpatched)
    if new is not None:
        yield from sum_over_places(site, _product(gradient, new), of_cells, span)


def sum_over_places(site: Site, entries: mx.array, of_cells: Sequence[EditsAtSite], span: Span) -> CellEffects:
    """The sum of an array over the entries that each cell edits.

    Args:
        site: The site.
        entries: What each entry of its activation contributes. Shape `(metric, *activation.shape)`.
        of_cells: Cells of one edit each.
        span: The positions of the activation.
    """
    shape = entries.shape[1:]
    picks = Together(site, [cell_edits.edits[0] for cell_edits in of_cells], span).picks(shape)
    whole_axes = never_picked(picks)
    sums = np.array(entries.sum(axis=[axis + 1 for axis in whole_axes], keepdims=True))
    for cell_edits, pick in zip(of_cells, picks, strict=True):
        yield cell_edits.cell, _sum_of_picked(sums, pick)


def _sum_of_picked(sums: np.ndarray, picks: Sequence[Pick]) -> np.ndarray:
    """The sum over the picked indices of each axis behind the batch's; 0 in rows that are not picked."""
    for axis in range(1, len(picks)):
        indices = picks[axis]
        if indices is not None:
            sums = np.take(sums, indices, axis=axis + 1)
    by_row = sums.reshape(*sums.shape[:2], -1)
    effect = by_row.sum(axis=-1, dtype=np.float64)
    if picks[0] is None:
        return effect
    is_picked = np.zeros(effect.shape[1], bool)
    is_picked[list(picks[0])] = True
    return np.where(is_picked, effect, 0.0)
