"""`GradDrop`: estimates without the gradient through one layer at a time, whose sizes are added up."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from typing_extensions import override

from mlx_patch.architectures import Layout
from mlx_patch.attribution._methods import Effects, Method
from mlx_patch.attribution._prompt_run import PromptRun
from mlx_patch.errors import ArchitectureError
from mlx_patch.execution.cells import Cell
from mlx_patch.interventions import Span
from mlx_patch.sites import Site

_ADDED = ("mixer_out", "mlp_out")
"""What a block adds to the stream."""


@final
@dataclass(frozen=True)
class GradDrop(Method):
    """Another method once a layer, each time without the gradient through what that layer adds to the stream.

    The skip connection is kept, so the rest of the gradient passes by. An effect is the sum of the sizes of these
    estimates over the number of layers less 1, which leaves out a cell's own layer. Effects that cancel in the plain
    gradient do not cancel in all of them. The size says nothing of the sign.

    Attributes:
        method: The method.
    """

    method: Method

    @override
    def effects(self, prompt_run: PromptRun, cells: Sequence[Cell], sites: Sequence[Site], span: Span) -> Effects:
        layers = _added_by_layer(prompt_run.layout)
        estimates = [self.method.effects(replace(prompt_run, stopped=added), cells, sites, span) for added in layers]
        sizes = sum((np.abs(estimate.of_cells) for estimate in estimates), np.zeros(()))
        return Effects(estimates[0].baseline, sizes / (len(layers) - 1))


def _added_by_layer(layout: Layout) -> list[tuple[Site, ...]]:
    """What each block adds to the stream, of those that add anything.

    Raises:
        ArchitectureError: There are fewer than two of these.
    """
    by_layer: dict[int, list[Site]] = {}
    for site in layout.sites:
        if site.name in _ADDED and site.layer is not None:
            by_layer.setdefault(site.layer, []).append(site)
    if len(by_layer) < 2:
        raise ArchitectureError(
            f"`model` must have two layers or more with mixer_out or mlp_out where graddrop=True. Got {len(by_layer)}. "
            "Leave `graddrop` out."
        )
    return [tuple(sites) for sites in by_layer.values()]
