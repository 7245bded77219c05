"""`Replace`: put other values in an activation's place."""

from dataclasses import dataclass

import mlx.core as mx
from typing_extensions import override

from mlx_patch.interventions._sourced import Patching
from mlx_patch.interventions._where import Where
from mlx_patch.interventions.sources import describe, values_of
from mlx_patch.positions import Alignment


@dataclass(frozen=True, repr=False, eq=False, init=False)
class Replace(Patching):
    """Put a source's values in an activation's place: activation patching proper.

    Args:
        source: An `ActivationCache` (the same site and positions are taken from it), or an array of the whole
            activation's shape, of the picked part's, or one that broadcasts to it. A batch of 1 serves every row.
        positions: Which position of the source's prompt stands for which of the run's, `mp.align(clean, corrupted)`,
            where they are not the same. Without `pos`, the edit is at all positions that have a source.

    Raises:
        KindError: The source is none, or an array that is to be aligned.
        SelectionError, ShapeError: The source is not of the alignment's source prompt.
    Source:
        Vig et al. 2020, https://arxiv.org/abs/2004.12265; Meng et al. 2022, https://arxiv.org/abs/2202.05262.
    Example:
        >>> Replace(mx.zeros((1, 3, 8)))
        Replace(array (1, 3, 8) float32)
    """

    @override
    def aligned(self, alignment: Alignment) -> "Replace":
        return Replace(self.source, alignment)

    @property
    @override
    def overwrites(self) -> bool:
        return True

    @override
    def __call__(self, own: mx.array, where: Where) -> mx.array:
        return values_of("source", self.source, own, where)

    @override
    def __repr__(self) -> str:
        return f"Replace({describe(self.source)})"
