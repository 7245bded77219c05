"""Gemma Scope 2: autoencoders and transcoders of Gemma 3, some with an affine connection beside the features."""

from pathlib import Path
from typing import final

import mlx.core as mx
from typing_extensions import override

from mlx_patch.dictionaries._activation import JumpRelu
from mlx_patch.dictionaries._dictionary import Dictionary
from mlx_patch.dictionaries._settings import read_json
from mlx_patch.dictionaries.dialects._dialect import Dialect, LoadChoices, Tensors, make_dictionary, refuse_factor
from mlx_patch.errors import FileError, shown


@final
class GemmaScope2(Dialect):
    """Gemma Scope 2. Its affine connection is written from input to output, `x @ A`: the transpose of others'."""

    name = "Gemma Scope 2"
    files = ("config.json", "params.safetensors")

    @override
    def read(self, folder: Path, choices: LoadChoices) -> Dictionary:
        settings = read_json(folder / "config.json")
        refuse_factor(choices, settings.path)
        settings.choose("architecture", ("jump_relu",))
        kind = settings.choose("type", ("sae", "transcoder"), "sae")
        settings.choose("apply_b_dec_to_input", (False,), False)
        hook = settings.take("hf_hook_point_in", str)
        hook_out = settings.take("hf_hook_point_out", str, hook)
        has_affine = settings.take("affine_connection", bool, False)
        expected_features = settings.take("width", int, None)
        settings.ignore(("model_name", "l0"))
        settings.refuse_rest()

        tensors = Tensors(folder / "params.safetensors")
        encoder = tensors.rows("w_enc", expected_features, None, by_column=True)
        n_features, width = encoder.shape
        decoder = tensors.rows("w_dec", n_features, None)
        skip: mx.array | None = None
        if has_affine:
            skip = tensors.array("affine_skip_connection", width, decoder.shape[1]).T
        is_transcoder = kind == "transcoder" or hook != hook_out
        if skip is not None and not is_transcoder:
            raise FileError(f"{settings.path} must have an affine connection in a transcoder only. Got {shown(kind)}.")
        return make_dictionary(
            self,
            tensors,
            settings.values,
            encoder,
            decoder,
            JumpRelu(tensors.array("b_enc", n_features), tensors.array("threshold", n_features)),
            hook,
            hook_out,
            is_transcoder,
            b_dec=tensors.array("b_dec", decoder.shape[1]),
            subtracts_bias=False,
            skip=skip,
        )
