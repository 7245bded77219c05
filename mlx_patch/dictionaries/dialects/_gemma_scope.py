"""Gemma Scope: a zip of numpy arrays, without a configuration."""

from pathlib import Path
from typing import final

from typing_extensions import override

from mlx_patch.dictionaries._activation import JumpRelu
from mlx_patch.dictionaries._dictionary import Dictionary
from mlx_patch.dictionaries.dialects._dialect import Dialect, LoadChoices, Tensors, make_dictionary, refuse_factor


@final
class GemmaScope(Dialect):
    """Gemma Scope, and its transcoders, which look the same: nothing in the file says where its features are read.

    Source:
        Lieberum et al. 2024, https://arxiv.org/abs/2408.05147, section 3.
    """

    name = "Gemma Scope"
    files = ("params.npz",)

    @override
    def read(self, folder: Path, choices: LoadChoices) -> Dictionary:
        path = folder / "params.npz"
        refuse_factor(choices, path)
        tensors = Tensors(path)
        encoder = tensors.rows("W_enc", None, None, by_column=True)
        n_features, width = encoder.shape
        decoder = tensors.rows("W_dec", n_features, width)
        activation = JumpRelu(tensors.array("b_enc", n_features), tensors.array("threshold", n_features))
        return make_dictionary(
            self, tensors, {}, encoder, decoder, activation, b_dec=tensors.array("b_dec", width), subtracts_bias=False
        )
