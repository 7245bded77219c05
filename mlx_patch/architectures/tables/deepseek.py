"""DeepSeek: llama's attention, a dense MLP in the first layers, and shared beside routed experts in the others."""

from mlx_patch.architectures._family import Family, Point, heads_side_by_side
from mlx_patch.architectures.tables.llama import BLOCK

ROUTED = dict.fromkeys(("router_logits", "expert_weights"), Point("mlp.gate", "inside", recipe="gate"))
"""The sites of a router that returns indices and weights."""

DEEPSEEK = Family(
    "deepseek",
    {
        **BLOCK,
        **heads_side_by_side("self_attn", "num_attention_heads", "num_kv_heads"),
        **ROUTED,
    },
)
