"""Selectors of positions by their text or role, and alignments of the positions of two prompts."""

from mlx_patch.positions import _pos as pos
from mlx_patch.positions._align import align as align
from mlx_patch.positions._alignment import Alignment as Alignment
from mlx_patch.positions._pieces import Pieces as Pieces
from mlx_patch.positions._pieces import prompt_ids as prompt_ids
from mlx_patch.positions._selector import Selector as Selector

__all__ = ["Alignment", "Pieces", "Selector", "align", "pos", "prompt_ids"]
