"""Mistral 3 with its vision left out: llama, Ministral 3 or Mistral 4 as the text tower."""

from mlx_patch.architectures._family import wrapped
from mlx_patch.architectures.tables.llama import LLAMA
from mlx_patch.architectures.tables.mistral4 import MISTRAL4

MISTRAL3_LLAMA = wrapped(LLAMA, "mistral3")
MISTRAL3_MISTRAL4 = wrapped(MISTRAL4, "mistral3")
