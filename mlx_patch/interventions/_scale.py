"""`Scale`: make an activation larger or smaller."""

from collections.abc import Iterable
from dataclasses import dataclass

import mlx.core as mx
from typing_extensions import override

from mlx_patch.interventions._base import Intervention, wide
from mlx_patch.interventions._masked import SCORES, refuse_masked
from mlx_patch.interventions._numbers import finite
from mlx_patch.interventions._where import Where
from mlx_patch.sites import Site


@dataclass(frozen=True, repr=False)
class Scale(Intervention):
    """`factor * own`.

    Args:
        factor: Any finite number; more than 0 at `attn_scores`, where the rest would unmask what is masked.
    Example:
        >>> Scale(0.5).at("z", head=3)
        Scale(0.5).at('z', head=3)
    """

    factor: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", finite("factor", self.factor))

    @property
    @override
    def by_row(self) -> bool:
        return True

    @property
    @override
    def by_position(self) -> bool:
        return True

    @override
    def __call__(self, own: mx.array, where: Where) -> mx.array:
        return self.factor * wide(own)

    @override
    def check(self, sites: Iterable[Site]) -> None:
        if self.factor <= 0.0:
            refuse_masked(repr(self), sites, SCORES, "Use a `factor` of more than 0.")

    @override
    def __repr__(self) -> str:
        return f"Scale({self.factor})"
