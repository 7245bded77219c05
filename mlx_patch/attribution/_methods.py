"""`Method`: a way to estimate the effects of cells. `_choice.py` has the name of each final subclass."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
from typing_extensions import override

from mlx_patch.attribution._effects import CellEffects
from mlx_patch.attribution._gradients import run_with_gradients
from mlx_patch.attribution._prompt_run import PromptRun
from mlx_patch.execution.cells import Cell
from mlx_patch.interventions import Span
from mlx_patch.sites import Site


@dataclass(frozen=True, eq=False)
class Effects:
    """What a method found for some prompts.

    Attributes:
        baseline: The metrics of the unpatched run. Shape `(metric, batch)`.
        of_cells: The effect of each cell. Shape `(cell, metric, batch)`.
        notes: What the result should say of it, by name; over several groups of prompts the largest number counts.
    """

    baseline: np.ndarray
    of_cells: np.ndarray
    notes: Mapping[str, float | str] = field(default_factory=dict)


class Method(ABC):
    """A way to estimate the effects of cells."""

    def first_position(self, start: int) -> int:
        """The first position that it needs, where the cells' first one is `start`."""
        return start

    @abstractmethod
    def effects(self, prompt_run: PromptRun, cells: Sequence[Cell], sites: Sequence[Site], span: Span) -> Effects:
        """The baseline of some prompts, and the effect of each cell.

        Args:
            prompt_run: The prompts.
            cells: The cells.
            sites: The sites that the cells edit.
            span: The positions that gradients go back through.
        """


@final
@dataclass(frozen=True)
class Gradient(Method):
    """The gradient at the unpatched run times the change."""

    @override
    def effects(self, prompt_run: PromptRun, cells: Sequence[Cell], sites: Sequence[Site], span: Span) -> Effects:
        effects = no_effects(prompt_run, cells, span)
        run = run_with_gradients(prompt_run, sites, effects.add)
        return Effects(np.array(run.values), effects.values, run.notes)


def no_effects(prompt_run: PromptRun, cells: Sequence[Cell], span: Span) -> CellEffects:
    """The effects of cells, before anything is known of them."""
    n_metrics, batch = len(prompt_run.readout.metrics), prompt_run.tokens.shape[0]
    return CellEffects(prompt_run.layout, cells, span, n_metrics, batch, prompt_run.memory)
