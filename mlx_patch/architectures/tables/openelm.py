"""OpenELM: each layer has its own number of heads and of neurons; queries, keys and values are one projection."""

from mlx_patch.architectures._family import BLOCK_ENDS, DENSE, Family, Point, adds, attention_inside
from mlx_patch.architectures._views import ByHead, Fused

_HEADS = ("attn.n_heads", "attn.n_kv_heads", "attn.n_kv_heads")

OPENELM = Family(
    "openelm",
    {
        **BLOCK_ENDS,
        **{name: Point("attn.qkv_proj", "output", Fused(_HEADS, index)) for index, name in enumerate("qkv")},
        **attention_inside("attn"),
        "z": Point("attn.out_proj", "input", ByHead("attn.n_heads")),
        **adds(Point("attn", "output"), "attn_out", "mixer_out"),
        "resid_mid": Point("ffn_norm", "input", carried="mlp_out"),
        "mlp_post": Point("ffn.proj_2", "input"),
        "mlp_out": Point("ffn", "output"),
    },
    absent=DENSE,
    blocks="transformer.layers",
    final_norm="transformer.norm",
    width="args.model_dim",
)
