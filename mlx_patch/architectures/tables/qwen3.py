"""Qwen 3: llama's names, and a norm on queries and keys by head."""

from mlx_patch.architectures._family import DENSE, Family
from mlx_patch.architectures.tables.llama import BLOCK

QWEN3 = Family("qwen3", BLOCK, absent=DENSE)
