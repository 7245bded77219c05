"""InternLM 2: one projection in which the queries of each KV head stand beside its key and its value."""

from mlx_patch.architectures._family import BLOCK_ENDS, DENSE, Family, Point, adds, attention_inside
from mlx_patch.architectures._views import ByHead, Grouped

_HEADS, _KV_HEADS = "attention.n_heads", "attention.n_kv_heads"

INTERNLM2 = Family(
    "internlm2",
    {
        **BLOCK_ENDS,
        **{n: Point("attention.wqkv", "output", Grouped(_HEADS, _KV_HEADS, index)) for index, n in enumerate("qkv")},
        **attention_inside("attention"),
        "z": Point("attention.wo", "input", ByHead(_HEADS)),
        **adds(Point("attention", "output"), "attn_out", "mixer_out"),
        "resid_mid": Point("ffn_norm", "input", carried="mlp_out"),
        "mlp_post": Point("feed_forward.w2", "input"),
        "mlp_out": Point("feed_forward", "output"),
    },
    absent=DENSE,
)
