"""`Interpolate`: go part of the way to other values."""

from collections.abc import Iterable
from dataclasses import dataclass

import mlx.core as mx
from typing_extensions import override

from mlx_patch.interventions._fitted import wide
from mlx_patch.interventions._masked import SCORES, refuse_masked
from mlx_patch.interventions._numbers import Strength, is_exactly, number_of, strength, written
from mlx_patch.interventions._sourced import Patching
from mlx_patch.interventions._where import Where
from mlx_patch.interventions.sources import SourceLike, describe, values_of
from mlx_patch.positions import Alignment
from mlx_patch.sites import Site


@dataclass(frozen=True, repr=False, eq=False, init=False)
class Interpolate(Patching):
    """`(1 - alpha) * own + alpha * source`: part of the way to the source, or beyond it.

    At the numbers 0 and 1 it is the activation and the source, bit for bit.

    Args:
        source: As of `Replace`.
        positions: As of `Replace`.
        alpha: Any finite number; 0 to 1 at `attn_scores`, where the rest would unmask what is masked. Or an array
            without axes, by which `mx.grad` differentiates.
    Source:
        Sundararajan et al. 2017 (integrated gradients), https://arxiv.org/abs/1703.01365, section 3: the path.
    Example:
        >>> Interpolate(mx.zeros((8,)), 0.25)
        Interpolate(array (8,) float32, 0.25)
    """

    alpha: Strength

    def __init__(self, source: SourceLike, alpha: Strength, positions: Alignment | None = None) -> None:
        super().__init__(source, positions)
        object.__setattr__(self, "alpha", strength("alpha", alpha))

    @override
    def with_strength(self, alpha: float) -> "Interpolate":
        return Interpolate(self.source, alpha)

    @override
    def aligned(self, alignment: Alignment) -> "Interpolate":
        return Interpolate(self.source, self.alpha, alignment)

    @override
    def __call__(self, own: mx.array, where: Where) -> mx.array:
        source = values_of("source", self.source, own, where)
        if is_exactly(self.alpha, 0.0):
            return own
        if is_exactly(self.alpha, 1.0):
            return source
        return (1.0 - self.alpha) * wide(own) + self.alpha * wide(source)

    @override
    def check(self, sites: Iterable[Site]) -> None:
        sites = tuple(sites)
        alpha = number_of(self.alpha)
        if alpha is None or not 0.0 <= alpha <= 1.0:
            refuse_masked(repr(self), sites, SCORES, "Use an `alpha` in 0 to 1.")
        super().check(sites)

    @override
    def __repr__(self) -> str:
        return f"Interpolate({describe(self.source)}, {written(self.alpha)})"
