"""Phi-3 small: query, key and value of each KV head together; block-sparse attention, written out, in some layers.

mlx_lm adds the mask of its block-sparse layers, which is one of bool, to their scores: those layers see what comes
later in a block, and the laws that say otherwise do not hold.
"""

from mlx_patch.architectures._family import BLOCK_ENDS, DENSE, Family, Point, adds, attention_inside
from mlx_patch.architectures._views import ByHead, Grouped, HeadsFirst

_HEADS, _KV_HEADS = "self_attn.n_heads", "self_attn.n_kv_heads"

PHI3SMALL = Family(
    "phi3small",
    {
        **BLOCK_ENDS,
        **{
            name: Point("self_attn.query_key_value", "output", Grouped(_HEADS, _KV_HEADS, index))
            for index, name in enumerate("qkv")
        },
        "rot_q": Point("self_attn.rope", "output", HeadsFirst(), call=0),
        "rot_k": Point("self_attn.rope", "output", HeadsFirst(), call=1),
        **attention_inside("self_attn", ("attn_scores", "pattern"), recipe="either"),
        "z": Point("self_attn.dense", "input", ByHead(_HEADS)),
        **adds(Point("self_attn", "output"), "attn_out", "mixer_out"),
        "resid_mid": Point("post_attention_layernorm", "input", carried="mlp_out"),
        "mlp_post": Point("mlp.down_proj", "input"),
        "mlp_out": Point("mlp", "output"),
    },
    absent=DENSE,
    final_norm="model.final_layernorm",
    uncut="its block-sparse layers see what comes later in the prompt",
)
