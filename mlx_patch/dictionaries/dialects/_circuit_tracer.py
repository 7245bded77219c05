"""circuit-tracer: a transcoder for the MLP of each layer, a file a layer."""

import re
from pathlib import Path
from typing import final

import mlx.core as mx
from typing_extensions import override

from mlx_patch.dictionaries._activation import FeatureActivation, JumpRelu, LargestK, Relu
from mlx_patch.dictionaries._dictionary import Dictionary
from mlx_patch.dictionaries._settings import Settings, read_yaml
from mlx_patch.dictionaries.dialects._dialect import (
    Dialect,
    LoadChoices,
    Tensors,
    checked_k,
    make_dictionary,
    refuse_factor,
)
from mlx_patch.errors import FileError, SelectionError, listed

_THRESHOLD = "activation_function.threshold"


@final
class CircuitTracer(Dialect):
    """circuit-tracer's sets of transcoders; `layer` says which one is meant."""

    name = "circuit-tracer"
    files = ("config.yaml", "layer_*.safetensors")

    @override
    def read(self, folder: Path, choices: LoadChoices) -> Dictionary:
        settings = read_yaml(folder / "config.yaml")
        refuse_factor(choices, settings.path)
        settings.choose("model_kind", ("transcoder_set",))
        settings.choose("transcoders", (None,), None)  # paths elsewhere
        hooks = [settings.take(f"feature_{side}_hook", str) for side in ("input", "output")]
        layer = _chosen_layer(folder, choices.layer)
        tensors = Tensors(folder / f"layer_{layer}.safetensors")
        encoder = tensors.rows("W_enc", None, None)
        n_features, width = encoder.shape
        decoder = tensors.rows("W_dec", n_features, None)
        d_out = decoder.shape[1]
        activation = _activation(settings, tensors, n_features)
        skip: mx.array | None = None
        if "W_skip" in tensors:
            skip = tensors.array("W_skip", d_out, width)
        settings.ignore(("model_name", "scan", "scan_name", "repo_id", "revision", "subfolder"))
        settings.refuse_rest()
        hook, hook_out = (_in_layer(name, layer) for name in hooks)
        return make_dictionary(
            self,
            tensors,
            settings.values,
            encoder,
            decoder,
            activation,
            hook,
            hook_out,
            is_transcoder=True,
            b_dec=tensors.array("b_dec", d_out),
            subtracts_bias=False,
            skip=skip,
        )


def _in_layer(name: str, layer: int) -> str:
    if name.startswith("blocks."):
        return name.replace("{layer}", str(layer))
    return f"blocks.{layer}.{name}"


def _activation(settings: Settings, tensors: Tensors, n_features: int) -> FeatureActivation:
    """A threshold is told by its array; what else there is by the configuration."""
    kind = settings.choose("activation", ("relu", "topk", "jump_relu", None), None)
    k = settings.take("k", (int, type(None)), None)
    bias = tensors.array("b_enc", n_features)
    tensors.ignore("k")
    if kind == "topk":
        if k is None:
            raise FileError(f"{settings.path} must say 'k' where the activation is 'topk'. Fetch it again.")
        return LargestK(bias, checked_k(k, n_features, settings.path), is_rectified=False)
    if kind == "relu" or (kind is None and _THRESHOLD not in tensors):
        return Relu(bias)
    return JumpRelu(bias, tensors.array(_THRESHOLD, n_features), is_rectified=False)


def _chosen_layer(folder: Path, layer: int | None) -> int:
    """The layer whose file is read.

    Raises:
        SelectionError: There are several and none is named, or there is no such file.
    """
    names = [re.fullmatch(r"layer_(\d+)", path.stem) for path in folder.glob("layer_*.safetensors")]
    layers = sorted(int(name[1]) for name in names if name)
    if layer is None and len(layers) == 1:
        return layers[0]
    if layer is None or layer not in layers:
        raise SelectionError(
            f"`layer` must be one of {listed(layers)}, whose files are in {folder}. Got {layer}. Pass `layer=`."
        )
    return layer
