"""`Replace`: put other values in an activation's place, or in that of its component within a subspace."""

from collections.abc import Iterable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from typing_extensions import override

from mlx_patch.errors import ShapeError
from mlx_patch.interventions._fitted import wide
from mlx_patch.interventions._masked import BY_KEY, refuse_masked
from mlx_patch.interventions._sourced import Patching
from mlx_patch.interventions._where import Where
from mlx_patch.interventions.sources import SourceLike, describe, values_of
from mlx_patch.interventions.subspaces import as_basis, component
from mlx_patch.positions import Alignment
from mlx_patch.sites import Site


@dataclass(frozen=True, repr=False, eq=False, init=False)
class Replace(Patching):
    """Put a source's values in an activation's place: activation patching proper.

    With a basis it is an interchange of a subspace: `own + (source - own) @ basis @ basis.T`.

    Args:
        source: An `ActivationCache` (the same site and positions are taken from it), or an array of the whole
            activation's shape, of the picked part's, or one that broadcasts to it. A batch of 1 serves every row.
        positions: Which position of the source's prompt stands for which of the run's, `mp.align(clean, corrupted)`,
            where they are not the same. Without `pos`, the edit is at all positions that have a source.
        basis: Orthonormal columns, of which `mp.orthonormal` makes some. Only the component within their span is
            replaced. Shape `(d_model, direction)`, for whatever the last axis is. None is the whole activation.

    Raises:
        KindError: The source is none, or an array that is to be aligned; or `basis` is no array.
        SelectionError, ShapeError: The source is not of the alignment's source prompt. When it runs: the last axis has
            another size than the basis.
        ValueRefusedError: The columns of `basis` are not orthonormal.
    Source:
        Vig et al. 2020, https://arxiv.org/abs/2004.12265; Meng et al. 2022, https://arxiv.org/abs/2202.05262. Of
        subspaces: Geiger et al. 2023, https://arxiv.org/abs/2303.02536, section 3.
    Example:
        >>> Replace(mx.zeros((1, 3, 8)))
        Replace(array (1, 3, 8) float32)
    """

    basis: mx.array | None

    def __init__(
        self,
        source: SourceLike,
        positions: Alignment | None = None,
        basis: mx.array | np.ndarray | None = None,
    ) -> None:
        super().__init__(source, positions)
        object.__setattr__(self, "basis", None if basis is None else as_basis(basis))

    @override
    def aligned(self, alignment: Alignment) -> "Replace":
        return Replace(self.source, alignment, self.basis)

    @property
    @override
    def overwrites(self) -> bool:
        return self.basis is None

    @property
    @override
    def elementwise(self) -> bool:
        return self.basis is None and super().elementwise

    @override
    def __call__(self, own: mx.array, where: Where) -> mx.array:
        values = values_of("source", self.source, own, where)
        if self.basis is None:
            return values
        if own.shape[-1] != self.basis.shape[0]:
            raise ShapeError(
                f"`basis` must have as many rows as the last axis, {own.shape[-1]}, at {where.site}. Got "
                f"{self.basis.shape[0]}. Make a basis of directions of that size."
            )
        activation = wide(own)
        difference, _ = component(wide(values) - activation, self.basis.T)
        return activation + difference

    @override
    def check(self, sites: Iterable[Site]) -> None:
        sites = tuple(sites)
        if self.basis is not None:
            refuse_masked(repr(self), sites, BY_KEY, "Exchange a subspace of 'q', 'k' or 'z'.")
        super().check(sites)

    @override
    def __repr__(self) -> str:
        if self.basis is None:
            return f"Replace({describe(self.source)})"
        return f"Replace({describe(self.source)}, basis={describe(self.basis)})"
