"""The zoo: a tiny model of every architecture that has a table, of mlx_lm's own classes, with seeded random weights.

Small enough to run in milliseconds, and not degenerate: norms near 1, weights large enough that attention is not
uniform and signals neither vanish nor explode, every kind of layer of a family present.
"""

from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from inspect import signature
from typing import Any, Literal, cast, get_args

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map_with_path

from mlx_patch import arguments
from mlx_patch.errors import ArchitectureError, shown
from mlx_patch.provenance import parameters
from mlx_patch.testing.zoo._kernels import without_metal
from mlx_patch.testing.zoo.species import every_species

Precision = Literal["float32", "bfloat16", "float16", "4bit"]

ZOO: Mapping[str, tuple[str, dict[str, Any]]] = every_species()
"""Tiny configurations by name: mlx_lm's module, and the arguments of its `ModelArgs`."""


EXCEPTIONS: Mapping[str, str] = {
    "bitnet": "its ternary weights are multiplied by a Metal kernel, so it runs on a Mac only",
    "olmo": "mlx_lm's module stops Python where ai2-olmo is missing, and runs no prompt of more than one token: "
    "it adds the mask to the scores, and the mask is the text 'causal'",
    "phi3small": "mlx_lm adds its mask of bool to the scores of block-sparse layers, which so see what comes later: "
    "laws 5, 7 and 9 do not hold",
}
"""Models of the zoo that do not run on every machine, or not as the laws say, with the reason as a clause."""


def tiny_model(name: str, precision: Precision = "float32", seed: int = 0) -> nn.Module:
    """A tiny model of the zoo.

    Args:
        name: A key of `ZOO`.
        precision: The dtype of its weights; "4bit" is affine, in groups of 32, on float32 activations.
        seed: For the weights.
    Raises:
        UnknownNameError: There is no such model.
        ArchitectureError: mlx_lm's module for it stops Python; `EXCEPTIONS` says why.
    """
    module_name, config = species(name)
    precision = cast("Precision", arguments.choice("precision", precision, get_args(Precision)))
    seed = arguments.whole_number("seed", seed, 0)
    return built(module_name, config, precision, seed)


def species(name: str) -> tuple[str, dict[str, Any]]:
    """A module of mlx_lm, and the zoo's configuration of it.

    Raises:
        UnknownNameError: There is no such model.
    """
    name = arguments.choice("name", name, ZOO, "a model of the zoo")
    return ZOO[name]


def built(
    module_name: str,
    config: Mapping[str, Any],
    precision: Precision = "float32",
    seed: int = 0,
    max_parameters: int | None = None,
) -> nn.Module:
    """A model of one of mlx_lm's modules with seeded random weights.

    Args:
        module_name: Its name under `mlx_lm.models`.
        config: The arguments of its `ModelArgs`.
        precision: As for `tiny_model`.
        seed: As for `tiny_model`.
        max_parameters: The most parameters that it may have; None is any number.
    Raises:
        ArchitectureError: As for `tiny_model`.
        ValueError: It has more parameters than it may. None is computed.
    """
    module = module_of(module_name)
    settings = {"model_type": module_name, **deepcopy(dict(config))}
    model = module.Model(module.ModelArgs.from_dict(settings))
    n_parameters = sum(array.size for array in parameters(model))
    if max_parameters is not None and n_parameters > max_parameters:
        raise ValueError(f"more than {max_parameters} parameters")
    model.update(_draw_weights(model, seed))
    if precision == "4bit":
        nn.quantize(model, group_size=32, bits=4, class_predicate=partial(_is_quantized, model))
    else:
        model.set_dtype(getattr(mx, precision))
    model.eval()
    mx.eval(model.parameters(), mx.random.state)  # which leads to the draws of weights that are replaced
    return model


def module_of(name: str) -> Any:
    """A module of mlx_lm's by its name."""
    try:
        return without_metal(name)
    except SystemExit as stopped:
        raise ArchitectureError(
            f"`name` must be an architecture that mlx_lm can load. Got {shown(name)}: "
            f"{EXCEPTIONS.get(name, 'it stops')}."
        ) from stopped


def _is_quantized(model: nn.Module, path: str, module: nn.Module) -> bool:
    """Whether mlx_lm quantises a module: AFM 7's fused projections know no modes, Gemma 3n mixes four streams.

    Models say what must stay as it is: Kimi K3 multiplies some weights with others.
    """
    quantize = getattr(module, "to_quantized", None)
    predicate = getattr(model, "quant_predicate", None)
    width = getattr(module, "weight", mx.zeros(32)).shape[-1]
    if quantize is None or "mode" not in signature(quantize).parameters or width % 32:
        return False
    return predicate is None or predicate(path, module) is not False


def _draw_weights(model: nn.Module, seed: int) -> Any:
    keys = iter(mx.random.split(mx.random.key(seed), 4096))

    def draw(path: str, array: mx.array) -> mx.array:
        noise = mx.random.normal(array.shape, key=next(keys))
        if array.dtype == mx.uint8:  # BitNet: four ternary weights, 0 to 2, in each byte
            digits = mx.random.randint(0, 3, (*array.shape, 4), key=next(keys))
            place_values = mx.array([1, 4, 16, 64])
            return mx.sum(digits * place_values, axis=-1).astype(mx.uint8)
        if path.endswith("weight_scale"):  # of ternary weights, which are of size 1
            return 0.2 * array
        if path.endswith("bias"):
            return 0.2 * noise
        if array.ndim == 0 and "quant" in path:  # the scale of activations, or of the rounding of keys and values
            return array * 0.05
        if array.ndim == 0:
            return array
        if not mx.issubdtype(array.dtype, mx.floating):  # packed from the start, as in PrismML's models
            return mx.random.randint(0, 2**31 - 1, array.shape, key=next(keys)).astype(array.dtype)
        if path.endswith(("scales", "biases")):
            return 0.1 * noise
        if path.endswith("signs"):
            return mx.sign(noise)
        if array.ndim == 1 or path.endswith(("q_weight", "k_weight")):  # the latter are norms by head
            return array + 0.1 * noise
        is_projection = path.endswith(("embed_q.weight", "unembed_out.weight"))
        if ("embed" in path or "wte" in path) and not is_projection:
            return noise
        return noise * (1.5 / array.shape[-1] ** 0.5)

    return tree_map_with_path(draw, model.parameters())
