"""Pairs of prompts: a clean one and a corrupted one, with what each should answer; and the classic tasks."""

from mlx_patch.pairs import _tasks as tasks
from mlx_patch.pairs._pairs import PromptPair as PromptPair
from mlx_patch.pairs._pairs import PromptPairs as PromptPairs
from mlx_patch.pairs._report import PairReport as PairReport

__all__ = ["PairReport", "PromptPair", "PromptPairs", "tasks"]
