"""SAELens: autoencoders and transcoders of several architectures, as versions 3 to 6 write them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import mlx.core as mx
from typing_extensions import override

from mlx_patch.dictionaries._activation import FeatureActivation, Gated, JumpRelu, LargestK, Relu
from mlx_patch.dictionaries._dictionary import Dictionary
from mlx_patch.dictionaries._normalisation import LayerNorm, Normalisation, ToConstantNorm, Unchanged
from mlx_patch.dictionaries._settings import Settings, read_json
from mlx_patch.dictionaries._stored import FeatureRows
from mlx_patch.dictionaries.dialects._dialect import (
    Dialect,
    LoadChoices,
    Tensors,
    checked_k,
    factor_of,
    make_dictionary,
    refuse_factor,
)
from mlx_patch.errors import FileError

_AUTOENCODERS = ("standard", "gated", "topk", "jumprelu")
_TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
_SCALED = "expected_average_only_in"
_BEFORE_6 = {
    "hook_point": "hook_name",
    "hook_point_layer": "hook_layer",
    "hook_point_head_index": "hook_head_index",
    "activation_fn": "activation_fn_str",
}
"""Keys of earlier versions, and what they are called later."""

_ABOUT = (
    "device dtype hook_layer hook_layer_out model_name prepend_bos dataset_path dataset_trust_remote_code context_size "
    "sae_lens_training_version sae_lens_version neuronpedia_id expansion_factor l1_coefficient run_name "
    "model_class_name seqpos_slice exclude_special_tokens training_tokens tokens_per_buffer sae_lens_training_config "
    "hf_hook_name hf_hook_name_out dataset_name sequence_separator_token disable_concat_sequences"
).split()
"""Keys that say where a dictionary comes from, and nothing of how it is computed."""


@final
class SaeLens(Dialect):
    """SAELens. Keys of its `metadata` other than hook points count for nothing."""

    name = "SAELens"
    files = ("cfg.json", "sae_weights.safetensors")

    @override
    def read(self, folder: Path, choices: LoadChoices) -> Dictionary:
        settings = _with_later_keys(read_json(folder / "cfg.json"))
        architecture = settings.choose("architecture", (*_AUTOENCODERS, *_TRANSCODERS), "standard")
        is_transcoder = architecture in _TRANSCODERS
        width, n_features = settings.take("d_in", int), settings.take("d_sae", int)
        d_out = width
        if is_transcoder:
            d_out = settings.take("d_out", int)
        normalisation = _normalisation(settings, choices, width)
        subtracts_bias = settings.take("apply_b_dec_to_input", bool, not is_transcoder)
        if is_transcoder and subtracts_bias:
            raise FileError(f"{settings.path} must not apply b_dec to the input of a transcoder. Fetch it again.")
        settings.choose("reshape_activations", ("none", "hook_z"), "none")
        hook, hook_out = _hooks(settings)

        tensors = Tensors(folder / "sae_weights.safetensors")
        _refuse_fine_tuning(settings, tensors, n_features)
        encoder = tensors.rows("W_enc", n_features, width, by_column=True)
        decoder = tensors.rows("W_dec", n_features, d_out)
        unit_rows = settings.take("rescale_acts_by_decoder_norm", bool, False)
        activation = _activation(architecture, settings, tensors, decoder, unit_rows)
        skip: mx.array | None = None
        if "skip" in architecture:
            skip = tensors.array("W_skip", d_out, width)
        settings.ignore(_ABOUT)
        settings.refuse_rest()
        return make_dictionary(
            self,
            tensors,
            settings.values,
            encoder,
            decoder,
            activation,
            hook,
            hook_out,
            is_transcoder or hook_out not in (None, hook),
            normalisation,
            b_dec=tensors.array("b_dec", d_out),
            subtracts_bias=subtracts_bias,
            unit_rows=unit_rows,
            skip=skip,
        )


def _with_later_keys(settings: Settings) -> Settings:
    """The settings under the keys of version 6, but for those that other code asks for by their old name."""
    values = {_BEFORE_6.get(key, key): value for key, value in settings.values.items()}
    if isinstance(values.get("normalize_activations"), bool):
        values["normalize_activations"] = ("none", _SCALED)[values["normalize_activations"]]
    return Settings(settings.path, values)


def _normalisation(settings: Settings, choices: LoadChoices, width: int) -> Normalisation:
    kinds: Mapping[Any, Normalisation] = {
        "none": Unchanged(),
        None: Unchanged(),
        "constant_norm_rescale": ToConstantNorm(),
        "layer_norm": LayerNorm(),
    }
    kind = settings.choose("normalize_activations", (*kinds, _SCALED), "none")
    if kind == _SCALED:
        return factor_of(choices, width, settings.path)
    refuse_factor(choices, settings.path)
    return kinds[kind]


def _hooks(settings: Settings) -> tuple[str, str | None]:
    """The hook points: of version 6 in the metadata, of earlier ones beside the rest."""
    metadata = settings.take("metadata", dict, {})
    places = Settings(settings.path, {**settings.values, **metadata})
    for key in ("hook_name", "hook_name_out", "hook_head_index", "model_from_pretrained_kwargs"):
        settings.ignore([key])
    if places.take("hook_head_index", (int, type(None)), None) is not None:
        raise FileError(
            f"{settings.path} must be of all heads together. Got one of head {places.values['hook_head_index']}, which "
            "mlx_patch does not place. Load a dictionary of all heads."
        )
    processing = places.take("model_from_pretrained_kwargs", (dict, type(None)), None) or {}
    if processing.get("center_writing_weights"):
        raise FileError(
            f"{settings.path} must be of a model whose weights are as they were trained. Got one that TransformerLens "
            "had centred (center_writing_weights): the stream of mlx_lm's model has a mean that its features have not "
            "seen. Load a dictionary that was trained without it."
        )
    hook = places.take("hook_name", (str, type(None)), None) or ""
    return hook, places.take("hook_name_out", (str, type(None)), None) or None


def _refuse_fine_tuning(settings: Settings, tensors: Tensors, n_features: int) -> None:
    """Refuse factors that were fitted after training. Some files have them as ones, which change nothing."""
    settings.choose("finetuning_scaling_factor", (False, None), False)
    if "scaling_factor" in tensors and not mx.all(tensors.array("scaling_factor", n_features) == 1).item():
        raise FileError(
            f"{tensors.path} must have no factors that were fitted after training. Got 'scaling_factor' other than 1. "
            "Load the dictionary before that step."
        )


def _activation(
    architecture: str, settings: Settings, tensors: Tensors, decoder: FeatureRows, unit_rows: bool
) -> FeatureActivation:
    n_features = decoder.shape[0]
    before_6 = settings.choose("activation_fn_str", ("relu", "topk", None), None)
    options = settings.take("activation_fn_kwargs", dict, {})
    if architecture == "gated":
        arrays = [tensors.array(name, n_features) for name in ("b_gate", "b_mag", "r_mag")]
        return Gated(*arrays)
    bias = tensors.array("b_enc", n_features)
    if architecture == "topk" or before_6 == "topk":
        k = settings.take("k", int, options.get("k", 0))
        weights: mx.array | None = None
        if unit_rows:
            weights = decoder.norms()
        return LargestK(bias, checked_k(k, n_features, settings.path), weights)
    if unit_rows:
        raise FileError(f"{settings.path} must have 'rescale_acts_by_decoder_norm' for topk only. Got {architecture}.")
    if "jumprelu" in architecture:
        return JumpRelu(bias, tensors.array("threshold", n_features))
    return Relu(bias)
