"""AFM 7: the upper layers have queries only, and read the keys and values of the last layer that has its own.

Keys and values are rounded to 8 bits before attention and the KV cache: `v` is what attention reads, after that.
"""

from mlx_patch.architectures._family import BLOCK_ENDS, DENSE, Family, Point, adds, attention_inside
from mlx_patch.architectures._views import ByHead

_HEADS, _KV_HEADS, _OWN = ByHead("self_attn.n_heads"), ByHead("self_attn.n_kv_heads"), "Attention"

AFM7 = Family(
    "afm7",
    {
        **BLOCK_ENDS,
        "q": (Point("self_attn.qkv_proj", "output", _HEADS, item=0), Point("self_attn.q_proj", "output", _HEADS)),
        "k": Point("self_attn.qkv_proj", "output", _KV_HEADS, item=1),
        "v": Point("self_attn", "inside", recipe="sdpa", of=_OWN),
        **attention_inside("self_attn", ("rot_q", "attn_scores", "pattern")),
        "rot_k": Point("self_attn", "inside", recipe="sdpa", of=_OWN),
        "z": Point("self_attn.out_proj", "input", _HEADS),
        **adds(Point("self_attn", "output"), "attn_out", "mixer_out"),
        "resid_mid": Point("post_attention_layernorm", "input", carried="mlp_out"),
        "mlp_post": Point("mlp.down_proj", "input"),
        "mlp_out": Point("mlp", "output"),
    },
    absent=DENSE,
    blocks="layers",
    final_norm="model.output_norm",
    width="args.hidden_dim",
    shared=("rot_k", "v"),
)
