"""MiniMax M2: norms over all heads at once behind the queries and the keys; experts chosen by sigmoids."""

from mlx_patch.architectures._family import NEURONS_OF_EXPERTS, Family, Heads, Point, heads_side_by_side, routed
from mlx_patch.architectures.tables.llama import BLOCK

MINIMAX = Family(
    "minimax",
    {
        **BLOCK,
        **heads_side_by_side("self_attn", "num_attention_heads", "num_key_value_heads"),
        "mlp_out": Point("block_sparse_moe", "output"),
        **routed("block_sparse_moe"),
    },
    absent=NEURONS_OF_EXPERTS,
    heads=Heads(mixed=True),
)
