"""Granite: llama's names, and a multiplier on what attention and MLP add to the stream."""

from mlx_patch.architectures._family import DENSE, Family, Point, adds
from mlx_patch.architectures._views import Times
from mlx_patch.architectures.tables.llama import BLOCK

GRANITE = Family(
    "granite",
    {
        **BLOCK,
        **adds(Point("self_attn", "output", Times("residual_multiplier")), "attn_out", "mixer_out"),
        "mlp_out": Point("mlp", "output", Times("residual_multiplier")),
    },
    absent=DENSE,
)
