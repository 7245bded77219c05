"""MiniCPM: llama's names, and what attention and MLP add is scaled by the depth of the model."""

import mlx.nn as nn

from mlx_patch.architectures._family import DENSE, Family, Point, adds, heads_side_by_side
from mlx_patch.architectures._views import Times, attribute_at
from mlx_patch.architectures.tables.llama import BLOCK


def by_depth(block: nn.Module) -> float:
    """The factor on what is added to the stream."""
    return attribute_at(block, "scale_depth") / attribute_at(block, "num_hidden_layers") ** 0.5


MINICPM = Family(
    "minicpm",
    {
        **BLOCK,
        **heads_side_by_side("self_attn", "num_heads", "num_key_value_heads"),
        **adds(Point("self_attn", "output", Times(by_depth)), "attn_out", "mixer_out"),
        "mlp_out": Point("mlp", "output", Times(by_depth)),
    },
    absent=DENSE,
)
