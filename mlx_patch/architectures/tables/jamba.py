"""Jamba: blocks of Mamba or of attention without RoPE, and an MLP or a mixture of experts.

The state space has raw paths: `model.layers.0.mamba.conv1d:output`, `...mamba.out_proj:input`; its state is in the
prompt cache (`prompt_cache[layer][1]`).
"""

from mlx_patch.architectures._family import DENSE, NEURONS_OF_EXPERTS, Family, Point, heads_side_by_side, routed
from mlx_patch.architectures.tables.llama import BLOCK

JAMBA = Family(
    "jamba",
    {
        **BLOCK,
        **heads_side_by_side("self_attn", "num_attention_heads", "num_key_value_heads"),
        "mixer_out": (Point("self_attn", "output"), Point("mamba", "output")),
        "resid_mid": Point("pre_ff_layernorm", "input", carried="mlp_out"),
        "mlp_post": Point("feed_forward.down_proj", "input"),
        "mlp_out": Point("feed_forward", "output"),
        **routed("feed_forward", "router"),
    },
    absent={**DENSE, **NEURONS_OF_EXPERTS},
    final_norm="model.final_layernorm",
)
