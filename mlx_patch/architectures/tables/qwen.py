"""Qwen, the first: GPT-2's names under `transformer`, with RoPE."""

from mlx_patch.architectures._family import DENSE, Family, Point, attention_inside
from mlx_patch.architectures._views import ByHead, Fused
from mlx_patch.architectures.tables.gpt2 import GPT2

_HEADS = "attn.num_attention_heads"

QWEN = Family(
    "qwen",
    {
        **GPT2.block,
        **{name: Point("attn.c_attn", "output", Fused((_HEADS,) * 3, index)) for index, name in enumerate("qkv")},
        **attention_inside("attn"),
        "z": Point("attn.c_proj", "input", ByHead(_HEADS)),
    },
    absent=DENSE,
    blocks="transformer.h",
    final_norm="transformer.ln_f",
)
