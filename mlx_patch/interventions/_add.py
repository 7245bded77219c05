"""`Add`: steer a model by adding to an activation."""

from dataclasses import dataclass

import mlx.core as mx
from typing_extensions import override

from mlx_patch.interventions._fitted import wide
from mlx_patch.interventions._numbers import Strength, is_exactly, strength, written
from mlx_patch.interventions._sourced import Sourced
from mlx_patch.interventions._where import Where
from mlx_patch.interventions.sources import Source, SourceLike, as_source, describe, values_of


@dataclass(frozen=True, repr=False, eq=False, init=False)
class Add(Sourced):
    """`own + scale * value`: steering.

    Args:
        value: An array of the whole activation's shape, of the picked part's, or one that broadcasts to it (a vector
            of the last axis); or an `ActivationCache`, whose activation at the site is added.
        scale: Any finite number; or an array without axes, by which `mx.grad` differentiates.
    Source:
        Turner et al. 2023 (activation addition), https://arxiv.org/abs/2308.10248.
    Example:
        >>> Add(mx.ones((8,)), scale=4.0).at("resid_pre", layer=0)
        Add(array (8,) float32, scale=4.0).at('resid_pre', layer=0)
    """

    value: Source
    scale: Strength

    def __init__(self, value: SourceLike, scale: Strength = 1.0) -> None:
        object.__setattr__(self, "value", as_source("value", value))
        object.__setattr__(self, "scale", strength("scale", scale))

    @property
    @override
    def _named_source(self) -> tuple[str, Source]:
        return "value", self.value

    @override
    def __call__(self, own: mx.array, where: Where) -> mx.array:
        activation = wide(own)
        value = values_of("value", self.value, activation, where)
        if is_exactly(self.scale, 1.0):
            return activation + value
        return activation + self.scale * value

    @override
    def __repr__(self) -> str:
        arguments = describe(self.value)
        if not is_exactly(self.scale, 1.0):
            arguments += f", scale={written(self.scale)}"
        return f"Add({arguments})"
