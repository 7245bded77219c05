"""Spark 2.5: one projection for queries, keys and values, and a gate on each head before the output projection."""

from mlx_patch.architectures._family import DENSE, Family, Heads, Point
from mlx_patch.architectures._views import ByHead, Fused
from mlx_patch.architectures.tables.llama import BLOCK

_HEADS = ("self_attn.n_heads", "self_attn.n_kv_heads", "self_attn.n_kv_heads")

SPARK2_5 = Family(
    "spark2_5",
    {
        **BLOCK,
        **{name: Point("self_attn.q_k_v_proj", "output", Fused(_HEADS, index)) for index, name in enumerate("qkv")},
        "z": Point("self_attn.out_proj", "input", ByHead("self_attn.n_heads")),
    },
    absent=DENSE,
    heads=Heads(gated=True),
)
