"""Granite 4: blocks of Mamba 2 or of attention, and a multiplier on what is added to the stream.

With experts, an MLP stands beside them and `mlp_out` is the sum of both; an edit is written through the MLP. The state
space has raw paths: `model.layers.0.mamba.conv1d:output`, `...mamba.out_proj:input`; its state is in the prompt cache
(`prompt_cache[layer][1]`).
"""

import mlx.nn as nn

from mlx_patch.architectures._family import DENSE, NEURONS_OF_EXPERTS, Family, Point, routed
from mlx_patch.architectures._views import Times, attribute_at
from mlx_patch.architectures.tables.granite import GRANITE

_ADDED = Times("residual_multiplier")
_MIXED = {
    **GRANITE.block,
    "mixer_out": (Point("self_attn", "output", _ADDED), Point("mamba", "output", _ADDED)),
}


def _has_experts(model: nn.Module) -> bool:
    return attribute_at(model, "args.use_moe")


GRANITEMOEHYBRID = Family(
    "granitemoehybrid",
    {
        **{name: point for name, point in _MIXED.items() if name != "mlp_post"},
        **routed("block_sparse_moe", "router.layer"),
        "mlp_out": Point("shared_mlp", "output", _ADDED, beside="block_sparse_moe"),
    },
    absent=NEURONS_OF_EXPERTS,
    applies=_has_experts,
    variant="experts",
)
GRANITEMOEHYBRID_DENSE = Family(
    "granitemoehybrid",
    _MIXED,
    absent=DENSE,
    applies=lambda model: not _has_experts(model),
    variant="dense",
)
