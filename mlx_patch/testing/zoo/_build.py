"""The zoo: a tiny model of every architecture that has a table, of mlx_lm's own classes, with seeded random weights.

Small enough to run in milliseconds, and not degenerate: norms near 1, weights large enough that attention is not
uniform and signals neither vanish nor explode, every kind of layer of a family present.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map_with_path

from mlx_patch.errors import UnknownNameError, did_you_mean
from mlx_patch.testing.zoo._classics import CLASSICS
from mlx_patch.testing.zoo._dense import DENSE
from mlx_patch.testing.zoo._experts import EXPERTS
from mlx_patch.testing.zoo._hybrids import HYBRIDS
from mlx_patch.testing.zoo._latent import LATENT
from mlx_patch.testing.zoo._sandwich import SANDWICH

Precision = Literal["float32", "bfloat16", "float16", "4bit"]

ZOO: Mapping[str, tuple[str, dict[str, Any]]] = {
    **CLASSICS,
    **DENSE,
    **SANDWICH,
    **EXPERTS,
    **HYBRIDS,
    **LATENT,
}
"""Tiny configurations by name: mlx_lm's module, and the arguments of its `ModelArgs`."""


def tiny_model(name: str, precision: Precision = "float32", seed: int = 0) -> nn.Module:
    """A tiny model of the zoo.

    Args:
        name: A key of `ZOO`.
        precision: The dtype of its weights; "4bit" is affine, in groups of 32, on float32 activations.
        seed: For the weights.
    Raises:
        UnknownNameError: There is no such model.
    """
    if name not in ZOO:
        raise UnknownNameError(f"`name` must be a model of the zoo. Got {name!r}. {did_you_mean(name, ZOO)}")
    module_name, config = ZOO[name]
    module = import_module(f"mlx_lm.models.{module_name}")
    model = module.Model(module.ModelArgs.from_dict({"model_type": module_name, **config}))
    model.update(_weights(model, seed))
    if precision == "4bit":
        nn.quantize(model, group_size=32, bits=4)
    else:
        model.set_dtype(getattr(mx, precision))
    model.eval()
    mx.eval(model.parameters())
    return model


def _weights(model: nn.Module, seed: int) -> Any:
    keys = iter(mx.random.split(mx.random.key(seed), 4096))

    def drawn(path: str, array: mx.array) -> mx.array:
        noise = mx.random.normal(array.shape, key=next(keys))
        if path.endswith("bias"):
            return 0.2 * noise
        if array.ndim == 1:
            return array + 0.1 * noise
        return noise * (1.5 / array.shape[-1] ** 0.5) if "embed" not in path and "wte" not in path else noise

    return tree_map_with_path(drawn, model.parameters())
