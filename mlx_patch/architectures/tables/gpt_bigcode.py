"""GPT-BigCode: GPT-2's names under `transformer`, and one key and one value head that all queries share."""

from mlx_patch.architectures._family import Family, Point
from mlx_patch.architectures._views import ByHead, Fused
from mlx_patch.architectures.tables.gpt2 import GPT2

_HEADS = ("attn.n_heads", "attn.n_kv_heads", "attn.n_kv_heads")

GPT_BIGCODE = Family(
    "gpt_bigcode",
    {
        **GPT2.block,
        **{name: Point("attn.c_attn", "output", Fused(_HEADS, index)) for index, name in enumerate("qkv")},
        "z": Point("attn.c_proj", "input", ByHead("attn.n_heads")),
    },
    absent=GPT2.absent,
    blocks="transformer.h",
    final_norm="transformer.ln_f",
    width="args.n_embd",
    positions="transformer.wpe",
)
