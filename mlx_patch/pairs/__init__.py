"""Pairs of clean and corrupted prompts, checked on a model; and generators of the classic tasks."""

from mlx_patch.pairs import tasks as tasks

from ._pair import PromptPair as PromptPair
from ._pairs import PromptPairs as PromptPairs
from ._report import PairCheckRow as PairCheckRow
from ._report import PairReport as PairReport
