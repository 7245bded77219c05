"""The text model of Llama 4 without experts: llama's names but for the MLP's, and layers without RoPE."""

from mlx_patch.architectures._family import DENSE, Family, Point
from mlx_patch.architectures.tables.llama import BLOCK

LLAMA4_TEXT = Family(
    "llama4_text",
    {**BLOCK, "mlp_post": Point("feed_forward.down_proj", "input"), "mlp_out": Point("feed_forward", "output")},
    absent=DENSE,
)
