"""Apertus: llama's names but for its norms, a norm on queries and keys by head, and an MLP without a gate."""

from mlx_patch.architectures._family import DENSE, Family, Point, heads_side_by_side
from mlx_patch.architectures.tables.llama import BLOCK

APERTUS = Family(
    "apertus",
    {
        **BLOCK,
        **heads_side_by_side("self_attn", "num_attention_heads", "num_key_value_heads"),
        "resid_mid": Point("feedforward_layernorm", "input", carried="mlp_out"),
    },
    absent=DENSE,
)
