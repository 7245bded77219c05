"""Bailing MoE v3 (Ring 2.5): the latent attention of DeepSeek V3 with gated heads, among layers of linear attention."""

from mlx_patch.architectures._family import BLOCK_ENDS, Family, HasModule, Heads, Point, attention_inside, select_kept
from mlx_patch.architectures._views import ByHead
from mlx_patch.architectures.tables.deepseek_v3 import LATENT

_HEADS = "attention.num_heads"
_IS_LATENT = HasModule("attention.kv_a_proj_with_mqa")

BAILING_MOE_V3 = Family(
    "bailing_moe_v3",
    {
        **BLOCK_ENDS,
        "q": (
            Point("attention.q_b_proj", "output", ByHead(_HEADS)),
            Point("attention.q_proj", "output", ByHead(_HEADS), given=_IS_LATENT),
        ),
        **attention_inside("attention", ("attn_scores", "pattern"), of="BailingMLA"),
        "z": Point("attention.dense", "input", ByHead(_HEADS)),
        "mixer_out": Point("attention", "output"),
        "attn_out": Point("attention", "output", of="BailingMLA"),
        "resid_mid": Point("post_attention_layernorm", "input", carried="mlp_out"),
        **select_kept("mlp.gate"),
        "mlp_post": Point("mlp.down_proj", "input"),
        "mlp_out": Point("mlp", "output"),
    },
    absent=LATENT,
    heads=Heads(gated=True),
)
