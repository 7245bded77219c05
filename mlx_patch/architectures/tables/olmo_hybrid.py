"""OLMo Hybrid: blocks of gated linear attention norm what they read, blocks of attention norm what they add.

Queries and keys of attention are normed over all heads at once. The linear attention has raw paths:
`model.layers.0.linear_attn.q_conv1d:output`, `...o_norm:input` (what is read out of the state; batch, positions and
heads on one axis), `...o_proj:input`; its state is in the prompt cache (`prompt_cache[layer][3]`).
"""

from mlx_patch.architectures._family import DENSE, Family, HasModule, Heads, Point, heads_side_by_side
from mlx_patch.architectures.tables.llama import BLOCK

_HAS_ATTENTION = HasModule("self_attn")
_ADDED = Point("post_attention_layernorm", "output", given=_HAS_ATTENTION)

OLMO_HYBRID = Family(
    "olmo_hybrid",
    {
        **BLOCK,
        **heads_side_by_side("self_attn", "num_attention_heads", "num_key_value_heads"),
        "attn_out": _ADDED,
        "mixer_out": (_ADDED, Point("linear_attn", "output")),
        "resid_mid": (
            Point("mlp", "input", carried="mlp_out", given=_HAS_ATTENTION),
            Point("post_attention_layernorm", "input", carried="mlp_out"),
        ),
        "mlp_out": (Point("post_feedforward_layernorm", "output"), Point("mlp", "output")),
    },
    absent=DENSE,
    heads=Heads(mixed=True),
)
