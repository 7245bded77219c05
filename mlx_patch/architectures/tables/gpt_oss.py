"""gpt-oss: attention sinks, and experts.

A score of each head that attends to nothing takes part in the softmax, so that rows of `pattern` sum to less than 1.
"""

from mlx_patch.architectures._family import NEURONS_OF_EXPERTS, Family, Heads, heads_side_by_side, routed
from mlx_patch.architectures.tables.llama import BLOCK

GPT_OSS = Family(
    "gpt_oss",
    {
        **BLOCK,
        **heads_side_by_side("self_attn", "num_attention_heads", "num_key_value_heads"),
        **routed(router="router", experts="experts"),
    },
    absent=NEURONS_OF_EXPERTS,
    heads=Heads(sinks="self_attn.sinks"),
)
