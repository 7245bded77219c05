"""Pixtral with its vision left out: llama as the text tower."""

from mlx_patch.architectures._family import wrapped
from mlx_patch.architectures.tables.llama import LLAMA

PIXTRAL = wrapped(LLAMA, "pixtral")
