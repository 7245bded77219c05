"""Phi: attention and MLP in parallel, on one norm; attention in float32."""

from mlx_patch.architectures._family import Family, Point, heads_side_by_side
from mlx_patch.architectures._views import ByHead
from mlx_patch.architectures.tables.cohere import PARALLEL, PARALLEL_BLOCK

PHI = Family(
    "phi",
    {
        **PARALLEL_BLOCK,
        **heads_side_by_side("self_attn", "num_heads", "num_key_value_heads"),
        "z": Point("self_attn.dense", "input", ByHead("self_attn.num_heads")),
        "mlp_post": Point("mlp.fc2", "input"),
    },
    absent=PARALLEL,
    final_norm="model.final_layernorm",
)
