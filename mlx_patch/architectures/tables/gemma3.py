"""Gemma 3 with its vision left out: the text tower."""

from mlx_patch.architectures._family import wrapped
from mlx_patch.architectures.tables.gemma3_text import GEMMA3_TEXT

GEMMA3 = wrapped(GEMMA3_TEXT, "gemma3")
