"""Phi-3: llama's names, with one projection for queries, keys and values, and one for gate and up."""

from mlx_patch.architectures._family import DENSE, Family, Point
from mlx_patch.architectures._views import Fused
from mlx_patch.architectures.tables.llama import BLOCK

_HEADS = ("self_attn.n_heads", "self_attn.n_kv_heads", "self_attn.n_kv_heads")

PHI3 = Family(
    "phi3",
    {
        **BLOCK,
        **{name: Point("self_attn.qkv_proj", "output", Fused(_HEADS, index)) for index, name in enumerate("qkv")},
    },
    absent=DENSE,
)
