"""Qwen 2: llama's names, with biases on queries, keys and values."""

from mlx_patch.architectures._family import DENSE, Family
from mlx_patch.architectures.tables.llama import BLOCK

QWEN2 = Family("qwen2", BLOCK, absent=DENSE)
