"""Mixtral: llama's attention, and a mixture of experts in place of the MLP."""

from mlx_patch.architectures._family import Family, Point, heads_side_by_side
from mlx_patch.architectures.llama import BLOCK

_MOE = "block_sparse_moe"

MIXTRAL = Family(
    "mixtral",
    {
        **{name: point for name, point in BLOCK.items() if name != "mlp_post"},
        **heads_side_by_side("self_attn", "num_heads", "num_key_value_heads"),
        "router_logits": Point(f"{_MOE}.gate", "output"),
        "expert_weights": Point(_MOE, "inside", recipe="experts"),
        "mlp_out": Point(_MOE, "output"),
    },
    absent={"mlp_post": "its neurons belong to experts, and each token runs other ones"},
)
