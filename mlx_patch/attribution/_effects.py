"""Effects of cells: the gradient times what their edits change, summed over the places that each cell edits."""

from collections.abc import Iterable, Mapping, Sequence

import mlx.core as mx
import numpy as np

from mlx_patch.architectures import Layout
from mlx_patch.attribution._gradients import SiteGradient
from mlx_patch.execution.cells import Cell, EditsAtSite, Together, edits_by_site, never_picked, take_picked, together_at
from mlx_patch.interventions import Pick, Span
from mlx_patch.sites import Site

_AT_ONCE = 64
"""Groups of cells whose changes are computed together."""


def effects_of_cells(
    layout: Layout, cells: Sequence[Cell], gradients: Mapping[Site, SiteGradient], span: Span
) -> np.ndarray:
    """The first-order effect of every cell: the sum over the sites that it edits.

    Args:
        layout: The model's layout.
        cells: The cells.
        gradients: At every site that a cell edits.
        span: The positions of the activations.
    Returns:
        Float64. Shape `(cell, metric, batch)`.
    """
    return effects_at_sites(edits_by_site(layout, enumerate(cells)), len(cells), gradients, span)


def effects_at_sites(
    by_site: Mapping[Site, Sequence[EditsAtSite]], n_cells: int, gradients: Mapping[Site, SiteGradient], span: Span
) -> np.ndarray:
    """The first-order effect that every cell has through some sites. Float64, shape `(cell, metric, batch)`.

    Args:
        by_site: What cells do at each of the sites.
        n_cells: How many cells there are.
        gradients: At each of the sites, and perhaps at others.
        span: The positions of the activations.
    """
    n_metrics, batch = next(iter(gradients.values())).gradient.shape[:2]
    effects = np.zeros((n_cells, n_metrics, batch))
    for site, members in by_site.items():
        groups = together_at(site, members)
        for begin in range(0, len(groups), _AT_ONCE):
            _add_effects(effects, gradients[site], groups[begin : begin + _AT_ONCE], span)
    return effects


def _add_effects(effects: np.ndarray, gradient: SiteGradient, groups: Iterable[Together], span: Span) -> None:
    """Add the effects of groups of cells at one site to those of all cells."""
    sums = []
    for group in groups:
        picks = group.picks(gradient.unpatched.shape, span)
        product = _product(gradient, group.apply(gradient.unpatched, span))
        whole_axes = [axis + 1 for axis in never_picked(picks)]
        sums.append((group, picks, product.sum(axis=whole_axes, keepdims=True)))
    mx.eval([summed for _, _, summed in sums])
    for group, picks, summed in sums:
        entries = np.array(summed)
        for member, pick in zip(group.members, picks, strict=True):
            effects[member.cell] += sum_of_picked(entries, pick)


def _product(gradient: SiteGradient, new: mx.array) -> mx.array:
    """Gradient times change, in float32. Shape `(metric, *unpatched.shape)`."""
    change = new.astype(mx.float32) - gradient.unpatched.astype(mx.float32)
    slope = gradient.gradient.astype(mx.float32)
    return mx.where(slope == 0, 0, slope * change)  # masked scores are infinite, and nothing depends on them


def sum_of_picked(entries: np.ndarray, picks: Sequence[Pick]) -> np.ndarray:
    """The sum over the picked indices of each axis behind the batch's; 0 in rows that are not picked.

    Args:
        entries: Shape `(metric, batch, ...)`.
        picks: The indices along the batch and each axis behind it; None is all.
    Returns:
        Float64. Shape `(metric, batch)`.
    """
    rows, *inner_picks = picks
    addends = take_picked(entries, inner_picks, first_axis=2)
    effect = addends.reshape(*addends.shape[:2], -1).sum(axis=-1, dtype=np.float64)
    if rows is None:
        return effect
    is_picked = np.zeros(effect.shape[1], bool)
    is_picked[list(rows)] = True
    return np.where(is_picked, effect, 0.0)
