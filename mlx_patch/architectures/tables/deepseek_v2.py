"""DeepSeek V2: keys and values are unfolded from one latent, by head, before attention.

A head's key is a part of its own, from the latent, with a rotated part that all heads share.
"""

from mlx_patch.architectures._family import BLOCK_ENDS, Family, Point, adds, attention_inside
from mlx_patch.architectures._views import ByHead, WithinHead
from mlx_patch.architectures.tables.deepseek import ROUTED

_HEADS = "self_attn.num_heads"

QUERIES = (
    Point("self_attn.q_b_proj", "output", ByHead(_HEADS)),
    Point("self_attn.q_proj", "output", ByHead(_HEADS)),
)
"""The queries by head; from a latent of their own, where there is one."""

BLOCK = {
    **BLOCK_ENDS,
    "q": QUERIES,
    "v": Point("self_attn.kv_b_proj", "output", WithinHead(_HEADS, "self_attn.qk_nope_head_dim")),
    **attention_inside("self_attn"),
    "z": Point("self_attn.o_proj", "input", ByHead(_HEADS)),
    **adds(Point("self_attn", "output"), "attn_out", "mixer_out"),
    "resid_mid": Point("post_attention_layernorm", "input", carried="mlp_out"),
    "mlp_post": Point("mlp.down_proj", "input"),
    "mlp_out": Point("mlp", "output"),
}

SHARED_KEY = {"k": "each head's key has a part of its own and a part shared by all heads, and no module holds both"}
"""Why an attention that unfolds keys from a latent lacks `k`."""

DEEPSEEK_V2 = Family("deepseek_v2", {**BLOCK, **ROUTED}, absent=SHARED_KEY)
