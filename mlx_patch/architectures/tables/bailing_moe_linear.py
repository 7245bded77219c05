"""Bailing MoE Linear (Ring) and Bailing Hybrid: blocks of linear attention, then one of softmax attention.

Softmax attention is llama's with one projection, or in Bailing Hybrid latent. `q`, `k`, `v` and `z` are softmax
attention's. The linear attention has raw paths: `model.layers.0.attention.query_key_value:output`,
`...attention.g_norm:input` (what is read out of the state, heads side by side), `...attention.dense:input`; its state
is in the prompt cache (`prompt_cache[layer][0]`).
"""

from mlx_patch.architectures._family import BLOCK_ENDS, Family, HasModule, Point, attention_inside, routed
from mlx_patch.architectures._views import ByHead, Fused
from mlx_patch.architectures.tables.deepseek_v3 import LATENT

_HEADS, _KV_HEADS = "attention.num_attention_heads", "attention.num_key_value_heads"
_FULL, _LATENT = "Attention", "MultiLatentAttention"
_IS_FULL, _IS_LATENT = HasModule("attention", class_name=_FULL), HasModule("attention", class_name=_LATENT)

_SHARED = {
    **BLOCK_ENDS,
    "mixer_out": Point("attention", "output"),
    "resid_mid": Point("post_attention_layernorm", "input", carried="mlp_out"),
    **routed("mlp", "gate.gate_proj"),
    "mlp_post": Point("mlp.down_proj", "input"),
    "mlp_out": Point("mlp", "output"),
}

BAILING_MOE_LINEAR = Family(
    "bailing_moe_linear",
    {
        **_SHARED,
        **{
            name: Point(
                "attention.query_key_value", "output", Fused((_HEADS, _KV_HEADS, _KV_HEADS), index), given=_IS_FULL
            )
            for index, name in enumerate("qkv")
        },
        **attention_inside("attention", of=_FULL),
        "z": Point("attention.dense", "input", ByHead(_HEADS), given=_IS_FULL),
        "attn_out": Point("attention", "output", of=_FULL),
    },
)
BAILING_HYBRID = Family(
    "bailing_hybrid",
    {
        **_SHARED,
        "q": (
            Point("attention.q_b_proj", "output", ByHead("attention.num_heads")),
            Point("attention.q_proj", "output", ByHead("attention.num_heads")),
        ),
        **attention_inside("attention", ("attn_scores", "pattern"), of=_LATENT),
        "z": Point("attention.dense", "input", ByHead("attention.num_heads"), given=_IS_LATENT),
        "attn_out": Point("attention", "output", of=_LATENT),
    },
    absent=LATENT,
)
