"""AFMoE (Trinity): norms on both sides of attention and MLP, a gate on what attention gathers, and experts.

`z` is what enters the output projection, after the gate. Full-attention layers have no RoPE.
"""

from mlx_patch.architectures._family import NEURONS_OF_EXPERTS, Family, Heads, Point, adds, routed
from mlx_patch.architectures.tables.llama import BLOCK

AFMOE = Family(
    "afmoe",
    {
        **BLOCK,
        **adds(Point("post_attention_layernorm", "output"), "attn_out", "mixer_out"),
        "resid_mid": Point("pre_mlp_layernorm", "input", carried="mlp_out"),
        "mlp_out": Point("post_mlp_layernorm", "output"),
        **routed(router="router", experts="experts"),
    },
    absent=NEURONS_OF_EXPERTS,
    heads=Heads(gated=True),
)
