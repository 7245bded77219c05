"""Llama Scope: autoencoders of Llama 3.1, normalised by the mean length of activations in their training data."""

from math import sqrt
from pathlib import Path
from typing import final

import mlx.core as mx
from typing_extensions import override

from mlx_patch.dictionaries._activation import JumpRelu
from mlx_patch.dictionaries._dictionary import Dictionary
from mlx_patch.dictionaries._normalisation import ByFactor
from mlx_patch.dictionaries._settings import Settings, read_json
from mlx_patch.dictionaries.dialects._dialect import Dialect, LoadChoices, Tensors, make_dictionary, refuse_factor
from mlx_patch.errors import FileError, brief

_OF_TRAINING = (
    "device seed dtype expansion_factor bias_init_method decoder_exactly_fixed_norm init_decoder_norm "
    "init_encoder_norm init_encoder_with_decoder_transpose lp l1_coefficient l1_coefficient_warmup_steps "
    "top_k k_warmup_steps use_batch_norm_mse use_ghost_grads tp_size ddp_size "
    "sae_pretrained_name_or_path strict_loading"
).split()


@final
class LlamaScope(Dialect):
    """Llama Scope's autoencoders: features are those of activations scaled to a mean length of `sqrt(d_model)`.

    The one threshold of the file is that of features of activations as they are, so it is scaled as they are.

    Source:
        He et al. 2024, https://arxiv.org/abs/2410.20526, sections 2 and 3.
    """

    name = "Llama Scope"
    files = ("hyperparams.json", "checkpoints/final.safetensors")

    @override
    def read(self, folder: Path, choices: LoadChoices) -> Dictionary:
        settings = read_json(folder / "hyperparams.json")
        refuse_factor(choices, settings.path)
        settings.choose("act_fn", ("jumprelu",))
        settings.choose("norm_activation", ("dataset-wise",))
        settings.choose("use_glu_encoder", (False,), False)
        settings.choose("use_decoder_bias", (True,), True)
        hook = _the_one_hook(settings)
        subtracts_bias = settings.take("apply_decoder_bias_to_pre_encoder", bool, False)
        by_decoder_norm = settings.take("sparsity_include_decoder_norm", bool, False)
        width, n_features = settings.take("d_model", int), settings.take("d_sae", int)
        factor = _factor(settings, width)
        threshold = settings.take("jump_relu_threshold", (int, float)) * factor
        settings.ignore(_OF_TRAINING)
        settings.refuse_rest()

        tensors = Tensors(folder / "checkpoints" / "final.safetensors")
        encoder = tensors.rows("encoder.weight", n_features, width)
        decoder = tensors.rows("decoder.weight", n_features, width, by_column=True)
        weights: mx.array | None = None
        if by_decoder_norm:
            weights = decoder.norms()
        activation = JumpRelu(
            tensors.array("encoder.bias", n_features), mx.full((n_features,), threshold), weights=weights
        )
        return make_dictionary(
            self,
            tensors,
            settings.values,
            encoder,
            decoder,
            activation,
            hook,
            normalisation=ByFactor(factor, factor),
            b_dec=tensors.array("decoder.bias", width),
            subtracts_bias=subtracts_bias,
        )


def _the_one_hook(settings: Settings) -> str:
    """The hook point of an autoencoder.

    Raises:
        FileError: It is a transcoder.
    """
    hook, hook_out = settings.take("hook_point_in", str), settings.take("hook_point_out", str)
    if hook != hook_out:
        raise FileError(
            f"{settings.path} must be of an autoencoder. Got a transcoder from {brief(hook)} to "
            f"{brief(hook_out)}, whose files leave open at which scale the decoder's lengths count for the threshold. "
            "Load a transcoder of another dialect."
        )
    return hook


def _factor(settings: Settings, width: int) -> float:
    norms = settings.take("dataset_average_activation_norm", dict)
    length = norms.get("in")
    if set(norms) != {"in", "out"} or not isinstance(length, int | float) or not length > 0 or norms["out"] != length:
        raise FileError(
            f"{settings.path} must have one mean length of activations, more than 0, for in and out. "
            f"Got {brief(norms)}."
        )
    return sqrt(width) / length
