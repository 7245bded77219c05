"""`Clamp`: hold an activation between two bounds."""

from collections.abc import Iterable
from dataclasses import dataclass

import mlx.core as mx
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.errors import ValueRefusedError
from mlx_patch.interventions._elementwise import Elementwise
from mlx_patch.interventions._fitted import wide
from mlx_patch.interventions._masked import SCORES, refuse_masked
from mlx_patch.interventions._where import Where
from mlx_patch.sites import Site


@dataclass(frozen=True, repr=False)
class Clamp(Elementwise):
    """The activation held between two bounds; with both the same, set to a number.

    Args:
        low: The lower bound, or None. None at `attn_scores`, where it would unmask what is masked.
        high: The upper bound, or None.
    Raises:
        ValueRefusedError: Both are None, or `low` is more than `high`.
    Source:
        Templeton et al. 2024, https://transformer-circuits.pub/2024/scaling-monosemanticity: features clamped.
    Example:
        >>> Clamp(-1.0, 1.0), Clamp(low=0.0)
        (Clamp(-1.0, 1.0), Clamp(low=0.0))
    """

    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.low is None and self.high is None:
            raise ValueRefusedError("`low` must be given if `high` is not. Got None for both. Give one or both.")
        for name in ("low", "high"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, arguments.number(name, getattr(self, name)))
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueRefusedError(f"`low` must be at most `high`. Got {self.low} and {self.high}. Swap them.")

    @override
    def __call__(self, own: mx.array, where: Where) -> mx.array:
        return mx.clip(wide(own), self.low, self.high)

    @override
    def check(self, sites: Iterable[Site]) -> None:
        if self.low is not None:
            refuse_masked(repr(self), sites, SCORES, "Give `high` alone.")

    @override
    def __repr__(self) -> str:
        if self.high is None:
            return f"Clamp(low={self.low})"
        if self.low is None:
            return f"Clamp(high={self.high})"
        return f"Clamp({self.low}, {self.high})"
