"""EleutherAI's sparsify: TopK autoencoders and transcoders, named by the module whose output they read or predict."""

from pathlib import Path
from typing import final

import mlx.core as mx
from typing_extensions import override

from mlx_patch.dictionaries._activation import LargestK
from mlx_patch.dictionaries._dictionary import Dictionary
from mlx_patch.dictionaries._settings import read_json
from mlx_patch.dictionaries.dialects._dialect import (
    Dialect,
    LoadChoices,
    Tensors,
    checked_k,
    make_dictionary,
    refuse_factor,
)
from mlx_patch.errors import FileError


@final
class Sparsify(Dialect):
    """sparsify. The folder's name says where features are read: `layers.10` is the stream behind block 10.

    A transcoder reads the module's input and predicts its output. Of other modules than blocks the output may not be
    what is added to the stream, so their dictionaries have no site.
    """

    name = "sparsify"
    files = ("cfg.json", "sae.safetensors")

    @override
    def read(self, folder: Path, choices: LoadChoices) -> Dictionary:
        settings = read_json(folder / "cfg.json")
        refuse_factor(choices, settings.path)
        width = settings.take("d_in", int)
        settings.choose("activation", ("topk",), "topk")
        for key in ("embed_skip", "gram_lookup", "signed"):
            settings.choose(key, (False,), False)
        is_transcoder = settings.take("transcode", bool, False)
        has_skip = settings.take("skip_connection", bool, False)
        if has_skip and not is_transcoder:
            raise FileError(f"{settings.path} must have a skip connection in a transcoder only. Got an autoencoder.")
        k = settings.take("k", int)
        num_latents = settings.take("num_latents", int, 0)
        n_features = num_latents or width * settings.take("expansion_factor", int)
        settings.ignore(("expansion_factor", "normalize_decoder", "multi_topk", "lookup_max_order", "gram_table_hash"))
        settings.refuse_rest()

        tensors = Tensors(folder / "sae.safetensors")
        encoder = tensors.rows("encoder.weight", n_features, width)
        decoder = tensors.rows("W_dec", n_features, width)
        skip: mx.array | None = None
        if has_skip:
            skip = tensors.array("W_skip", width, width)
        hook = hook_out = folder.name
        if is_transcoder:
            hook = f"{hook_out}.input"
        return make_dictionary(
            self,
            tensors,
            settings.values,
            encoder,
            decoder,
            LargestK(tensors.array("encoder.bias", n_features), checked_k(k, n_features, settings.path)),
            hook,
            hook_out,
            is_transcoder,
            b_dec=tensors.array("b_dec", width),
            subtracts_bias=not is_transcoder,
            skip=skip,
        )
