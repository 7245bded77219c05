"""Kimi Linear: blocks of gated delta attention, which is linear, and some of latent attention without RoPE.

`q` and `z` are latent attention's. The linear attention has raw paths: `model.layers.0.self_attn.q_conv:input`,
`...self_attn.o_norm:input` (what is read out of the state, by head), `...self_attn.o_proj:input`; its state is in the
prompt cache (`prompt_cache[layer][3]`).
"""

from mlx_patch.architectures._family import BLOCK_ENDS, Family, HasModule, Point, attention_inside, routed
from mlx_patch.architectures._views import ByHead
from mlx_patch.architectures.tables.deepseek_v3 import LATENT

_LATENT = "KimiMLAAttention"
_IS_LATENT = HasModule("self_attn", class_name=_LATENT)
_HEADS = ByHead("self_attn.num_heads")

KIMI_LINEAR = Family(
    "kimi_linear",
    {
        **BLOCK_ENDS,
        "q": Point("self_attn.q_proj", "output", _HEADS, given=_IS_LATENT),
        **attention_inside("self_attn", ("attn_scores", "pattern"), of=_LATENT),
        "z": Point("self_attn.o_proj", "input", _HEADS, given=_IS_LATENT),
        "attn_out": Point("self_attn", "output", of=_LATENT),
        "mixer_out": Point("self_attn", "output"),
        "resid_mid": Point("post_attention_layernorm", "input", carried="mlp_out"),
        **routed(),
        "mlp_post": Point("mlp.down_proj", "input"),
        "mlp_out": Point("mlp", "output"),
    },
    absent=LATENT,
)
