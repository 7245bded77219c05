"""Granite with experts: a multiplier on what attention and experts add to the stream."""

from mlx_patch.architectures._family import NEURONS_OF_EXPERTS, Family, Point, routed
from mlx_patch.architectures._views import Times
from mlx_patch.architectures.tables.granite import GRANITE

GRANITEMOE = Family(
    "granitemoe",
    {
        **GRANITE.block,
        "mlp_out": Point("block_sparse_moe", "output", Times("residual_multiplier")),
        **routed("block_sparse_moe", router="router.layer"),
    },
    absent=NEURONS_OF_EXPERTS,
)
