"""MiniCPM 3: the latent attention of DeepSeek V2, and a multiplier, by depth, on what is added to the stream."""

import mlx.nn as nn

from mlx_patch.architectures._family import DENSE, Family, Point, adds
from mlx_patch.architectures._views import Times, attribute_at
from mlx_patch.architectures.tables.deepseek_v2 import BLOCK, SHARED_KEY


def _by_depth(block: nn.Module) -> float:
    return attribute_at(block, "scale_depth") / attribute_at(block, "num_hidden_layers") ** 0.5


MINICPM3 = Family(
    "minicpm3",
    {
        **BLOCK,
        **adds(Point("self_attn", "output", Times(_by_depth)), "attn_out", "mixer_out"),
        "mlp_out": Point("mlp", "output", Times(_by_depth)),
    },
    absent={**DENSE, **SHARED_KEY},
)
