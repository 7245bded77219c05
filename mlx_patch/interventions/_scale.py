"""`Scale`: make an activation larger or smaller."""

from collections.abc import Iterable
from dataclasses import dataclass

import mlx.core as mx
from typing_extensions import override

from mlx_patch.interventions._elementwise import Elementwise
from mlx_patch.interventions._fitted import wide
from mlx_patch.interventions._masked import SCORES, refuse_masked
from mlx_patch.interventions._numbers import Strength, number_of, strength, written
from mlx_patch.interventions._where import Where
from mlx_patch.sites import Site


@dataclass(frozen=True, repr=False)
class Scale(Elementwise):
    """`factor * own`.

    Args:
        factor: Any finite number; more than 0 at `attn_scores`, where the rest would unmask what is masked. Or an array
            without axes, by which `mx.grad` differentiates.
    Example:
        >>> Scale(0.5).at("z", head=3)
        Scale(0.5).at('z', head=3)
    """

    factor: Strength

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", strength("factor", self.factor))

    @override
    def __call__(self, own: mx.array, where: Where) -> mx.array:
        return self.factor * wide(own)

    @override
    def check(self, sites: Iterable[Site]) -> None:
        factor = number_of(self.factor)
        if factor is None or factor <= 0.0:
            refuse_masked(repr(self), sites, SCORES, "Use a `factor` of more than 0.")

    @override
    def __repr__(self) -> str:
        return f"Scale({written(self.factor)})"
