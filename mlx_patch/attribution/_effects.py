"""Effects of cells: the gradient times what their edits change, summed over the places that each cell edits."""

from collections.abc import Iterable, Mapping, Sequence

import mlx.core as mx
import numpy as np

from mlx_patch.architectures import Layout
from mlx_patch.attribution._gradients import SiteGradient
from mlx_patch.execution.cells import Cell, Together, edits_by_site, never_picked, take_picked, together_at
from mlx_patch.interventions import Pick, Span
from mlx_patch.sites import Site

_AT_ONCE = 64
"""Groups of cells whose changes are computed together, where memory allows it."""


class CellEffects:
    """The first-order effects of cells: of each the sum over the sites that it edits, as gradients there become known.

    Args:
        layout: The model's layout.
        cells: The cells.
        span: The positions of the activations.
        n_metrics: The number of metrics.
        batch: The number of rows.
        memory: Bytes that changes may take at once, if one does not take more; None is no bound.

    Attributes:
        values: The effects so far, float64. Shape `(cell, metric, batch)`.
    """

    def __init__(
        self, layout: Layout, cells: Sequence[Cell], span: Span, n_metrics: int, batch: int, memory: int | None = None
    ):
        self.values = np.zeros((len(cells), n_metrics, batch))
        self._span = span
        self._memory = memory
        self._edits_by_site = edits_by_site(layout, enumerate(cells))

    def add(self, gradients: Mapping[Site, SiteGradient]) -> None:
        """Add what cells do at some sites, each of which comes once."""
        for site, gradient in gradients.items():
            groups = together_at(site, self._edits_by_site.get(site, ()))
            at_once = _AT_ONCE
            if self._memory is not None:
                at_once = min(at_once, max(1, self._memory // gradient.change_bytes))
            for begin in range(0, len(groups), at_once):
                self._add_groups(gradient, groups[begin : begin + at_once])

    def _add_groups(self, gradient: SiteGradient, groups: Iterable[Together]) -> None:
        """Add what groups of cells do at one site."""
        sums = []
        for group in groups:
            picks = group.picks(gradient.unpatched.shape, self._span)
            product = _product(gradient, group.apply(gradient.unpatched, self._span))
            whole_axes = [axis + 1 for axis in never_picked(picks)]
            sums.append((group, picks, product.sum(axis=whole_axes, keepdims=True)))
        mx.eval([summed for _, _, summed in sums])
        for group, picks, summed in sums:
            entries = np.array(summed)
            for member, pick in zip(group.members, picks, strict=True):
                self.values[member.cell] += sum_of_picked(entries, pick)


def _product(gradient: SiteGradient, new: mx.array) -> mx.array:
    """Gradient times change, in float32. Shape `(metric, *unpatched.shape)`."""
    change = new.astype(mx.float32) - gradient.unpatched.astype(mx.float32)
    slope = gradient.gradient.astype(mx.float32)
    return mx.where(slope == 0, 0, slope * change)  # masked scores are infinite, and nothing depends on them


def sum_of_picked(entries: np.ndarray, picks: Sequence[Pick]) -> np.ndarray:
    """The sum over the picked indices of each axis behind the batch's; 0 in rows that are not picked."""
    rows, *inner_picks = picks
    addends = take_picked(entries, inner_picks, first_axis=2)
    effect = addends.reshape(*addends.shape[:2], -1).sum(axis=-1, dtype=np.float64)
    if rows is None:
        return effect
    is_picked = np.zeros(effect.shape[1], bool)
    is_picked[list(rows)] = True
    return np.where(is_picked, effect, 0.0)
