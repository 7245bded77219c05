"""Gemma 4 with its vision and audio left out: the text tower."""

from mlx_patch.architectures._family import wrapped
from mlx_patch.architectures.tables.gemma4_text import GEMMA4_TEXT

GEMMA4 = wrapped(GEMMA4_TEXT, "gemma4")
