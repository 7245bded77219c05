"""Mixtral: llama's attention, and a mixture of experts in place of the MLP."""

from mlx_patch.architectures._family import NEURONS_OF_EXPERTS, Family, Point, heads_side_by_side, routed
from mlx_patch.architectures.tables.llama import BLOCK

_MOE = "block_sparse_moe"

MIXTRAL = Family(
    "mixtral",
    {
        **{name: point for name, point in BLOCK.items() if name != "mlp_post"},
        **heads_side_by_side("self_attn", "num_heads", "num_key_value_heads"),
        **routed(_MOE),
        "mlp_out": Point(_MOE, "output"),
    },
    absent=NEURONS_OF_EXPERTS,
)
