"""GPT-NeoX and Pythia: query, key and value of each head together; attention and MLP in parallel, or one by one."""

import mlx.nn as nn

from mlx_patch.architectures._family import BLOCK_ENDS, DENSE, Family, Point, adds, attention_inside
from mlx_patch.architectures._views import ByHead, Interleaved, attribute_at

_HEADS = "attention.num_attention_heads"

_SHARED = {
    **BLOCK_ENDS,
    **{
        name: Point("attention.query_key_value", "output", Interleaved(_HEADS, index))
        for index, name in enumerate("qkv")
    },
    **attention_inside("attention"),
    "z": Point("attention.dense", "input", ByHead(_HEADS)),
    **adds(Point("attention", "output"), "attn_out", "mixer_out"),
    "mlp_post": Point("mlp.dense_4h_to_h", "input"),
    "mlp_out": Point("mlp", "output"),
}


def _parallel(model: nn.Module) -> bool:
    return attribute_at(model, "args.use_parallel_residual")


GPT_NEOX_PARALLEL = Family(
    "gpt_neox",
    _SHARED,
    absent={**DENSE, "resid_mid": "its attention and MLP run in parallel"},
    applies=_parallel,
    variant="parallel",
    blocks="model.h",
    final_norm="model.final_layer_norm",
)
GPT_NEOX_SEQUENTIAL = Family(
    "gpt_neox",
    {**_SHARED, "resid_mid": Point("post_attention_layernorm", "input", carried="mlp_out")},
    absent=DENSE,
    applies=lambda model: not _parallel(model),
    variant="sequential",
    blocks="model.h",
    final_norm="model.final_layer_norm",
)
