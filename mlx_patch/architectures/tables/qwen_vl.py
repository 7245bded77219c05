"""Qwen 2 VL and Qwen 3 VL with their vision left out: Qwen 2 or Qwen 3 as the text tower."""

from mlx_patch.architectures._family import wrapped
from mlx_patch.architectures.tables.qwen2 import QWEN2
from mlx_patch.architectures.tables.qwen3 import QWEN3

QWEN2_VL = wrapped(QWEN2, "qwen2_vl")
QWEN3_VL = wrapped(QWEN3, "qwen3_vl")
