"""`Experiment`: a sweep that is ready to run. Bad input is refused while it is made, before anything long runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_patch.execution.cells import Cell, KnownRun
from mlx_patch.execution.measurements import Measurement, measurement_of
from mlx_patch.execution.readouts import AnswerRuns, Readout
from mlx_patch.interventions import Edit
from mlx_patch.metrics import Metric
from mlx_patch.model import HookedModel
from mlx_patch.results import Coordinate
from mlx_patch.tokens import Batch


@dataclass(frozen=True, eq=False)
class Experiment:
    """A sweep that is ready to run.

    Attributes:
        model: The model.
        batches: The prompts, in groups of equal length.
        readouts: What the metrics read of each group.
        cells: For each group, every cell.
        coords: What stands along each axis, by its name, in order.
        description: What is done where, in words.
        answers: Maps each run back to the prompt and answer it measures; None if every answer is one token.
        with_baseline: Whether the unpatched run is measured as well. Without it, only an executor can run the cells
            whose passes need nothing of that run.
        standing: For each group, the edits that every run has, the unpatched one too; empty where there are none.
        standing_axis: The axis along which they differ: then the groups are there once for each of its coordinates, and
            each group has the cells of that coordinate. Empty where there is none.
        host_runs: For each group, the run with standing edits alone, where it was run to make the cells.
    """

    model: HookedModel
    batches: tuple[Batch, ...]
    readouts: tuple[Readout, ...]
    cells: tuple[tuple[Cell, ...], ...]
    coords: Mapping[str, tuple[Coordinate, ...]]
    description: Mapping[str, Any]
    answers: AnswerRuns | None = None
    with_baseline: bool = True
    standing: tuple[tuple[Edit, ...], ...] = ()
    standing_axis: str = ""
    host_runs: tuple[KnownRun | None, ...] = ()

    def standing_of(self, group: int) -> tuple[Edit, ...]:
        """The standing edits of a group of prompts."""
        if not self.standing:
            return ()
        return self.standing[group]

    def host_run_of(self, group: int) -> KnownRun | None:
        """The run of a group of prompts with standing edits alone, where it was run to make the cells."""
        if not self.host_runs:
            return None
        return self.host_runs[group]

    @property
    def n_draws(self) -> int:
        """How many times the groups of prompts are there, each time with other standing edits."""
        if not self.standing_axis:
            return 1
        return len(self.coords[self.standing_axis])

    @property
    def prompts(self) -> tuple[Batch, ...]:
        """The prompts as they were given, in groups of equal length."""
        if self.answers is not None:
            return self.answers.batches
        return self.batches[: len(self.batches) // self.n_draws]

    @property
    def requested(self) -> "Experiment | AnswerRuns":
        """What holds the metrics as they were given."""
        return self.answers or self

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics, as they are for the first group; their names are the same for all."""
        return self.readouts[0].metrics

    @property
    def measurement(self) -> Measurement:
        """How the metrics are measured: all of an experiment are of one kind."""
        return measurement_of(self.metrics[0])

    @property
    def n_examples(self) -> int:
        """How many prompts there are."""
        return sum(len(batch.examples) for batch in self.batches)
