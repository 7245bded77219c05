"""`Project`: remove directions from an activation, or keep them alone."""

from collections.abc import Iterable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from typing_extensions import override

from mlx_patch.errors import KindError, ShapeError, shown
from mlx_patch.interventions._elementwise import Local
from mlx_patch.interventions._fitted import wide
from mlx_patch.interventions._masked import SCORES, refuse_masked
from mlx_patch.interventions._where import Where
from mlx_patch.interventions.sources import as_source, describe
from mlx_patch.interventions.subspaces._basis import component, rows_of_basis
from mlx_patch.sites import Site


@dataclass(frozen=True, repr=False, eq=False, init=False)
class Project(Local):
    """The activation without its component along some directions of the last axis, or (`onto`) that component alone.

    Args:
        direction: A vector, or several that are linearly independent. Their length and the angles between them do not
            matter. Shape `(d_model,)` or `(direction, d_model)`, for whatever the last axis is. `mx.grad`
            differentiates by them, once.
        onto: Whether to keep the component, and drop the rest.
    Raises:
        ShapeError: `direction` has neither one axis nor two. When it runs: the last axis has another size.
        ValueRefusedError: A direction is zero or not finite, or follows from the others.
    Source:
        Arditi et al. 2024 (directional ablation), https://arxiv.org/abs/2406.11717, section 2.4.
    Example:
        >>> Project(mx.array([0.0, 2.0])), Project(mx.array([0.0, 2.0]), onto=True)
        (Project(array (2,) float32), Project(array (2,) float32, onto=True))
    """

    direction: mx.array
    onto: bool
    basis: mx.array
    """Orthonormal vectors of the same span. Shape `(direction, d_model)`, float32. Has the gradient of the span."""

    def __init__(self, direction: mx.array | np.ndarray, onto: bool = False) -> None:
        array = as_source("direction", direction)
        if not isinstance(array, mx.array):
            raise KindError(f"`direction` must be an mx.array or a numpy array. Got {type(direction).__name__}.")
        if not isinstance(onto, bool):
            raise KindError(f"`onto` must be True or False. Got {shown(onto)}.")
        object.__setattr__(self, "direction", array)
        object.__setattr__(self, "onto", onto)
        object.__setattr__(self, "basis", rows_of_basis(array))

    @override
    def __call__(self, own: mx.array, where: Where) -> mx.array:
        if own.shape[-1:] != self.basis.shape[1:]:
            raise ShapeError(
                f"`direction` must have the size of the last axis, {own.shape[-1]}. Got {self.basis.shape[1]}."
            )
        within, remainder = component(wide(own), self.basis)
        return within if self.onto else remainder

    @override
    def check(self, sites: Iterable[Site]) -> None:
        refuse_masked(repr(self), sites, SCORES, "Project 'q' or 'k'.")

    @override
    def __repr__(self) -> str:
        if self.onto:
            return f"Project({describe(self.direction)}, onto=True)"
        return f"Project({describe(self.direction)})"
