"""Lille: norms stand inside attention and MLP, so the stream between them is what the MLP itself reads."""

from mlx_patch.architectures._family import BLOCK_ENDS, DENSE, Family, Point, adds, attention_inside
from mlx_patch.architectures._views import ByHead, Fused

_HEADS = ("attention.n_head", "attention.n_kv_heads", "attention.n_kv_heads")

LILLE_130M = Family(
    "lille-130m",
    {
        **BLOCK_ENDS,
        **{name: Point("attention.qkv_proj", "output", Fused(_HEADS, index)) for index, name in enumerate("qkv")},
        **attention_inside("attention"),
        "z": Point("attention.out_proj", "input", ByHead("attention.n_head")),
        **adds(Point("attention", "output"), "attn_out", "mixer_out"),
        "resid_mid": Point("feed_forward", "input", carried="mlp_out"),
        "mlp_post": Point("feed_forward.down_proj", "input"),
        "mlp_out": Point("feed_forward", "output"),
    },
    absent=DENSE,
    blocks="transformer.layers",
    final_norm="transformer.norm",
    width="args.n_embd",
)
