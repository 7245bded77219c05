"""Klear: what the routed experts give together is weighed against what the shared expert gives, token by token.

That comes after `expert_weights`, which says how the routed experts share their part.
"""

from mlx_patch.architectures._family import NEURONS_OF_EXPERTS, Family, heads_side_by_side, routed
from mlx_patch.architectures.tables.llama import BLOCK

KLEAR = Family(
    "Klear",
    {
        **BLOCK,
        **heads_side_by_side("self_attn", "num_attention_heads", "num_key_value_heads"),
        **routed(experts="experts"),
    },
    absent=NEURONS_OF_EXPERTS,
)
