"""Confirmation: exact numbers for the strongest cells, and for some others drawn at random."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from mlx_patch.errors import KindError, ValueRefusedError, shown
from mlx_patch.execution import Experiment, run_experiment
from mlx_patch.execution.progress import ProgressChoice
from mlx_patch.results import Estimate


@dataclass(frozen=True)
class Confirmation:
    """How many cells are swept exactly.

    Attributes:
        strongest: How many of the strongest.
        at_random: How many of the others.
        seed: Of the draw.
    Raises:
        KindError: One is no whole number.
        ValueRefusedError: One is below 0.
    """

    strongest: int
    at_random: int
    seed: int

    def __post_init__(self) -> None:
        for argument, number in (("confirm", self.strongest), ("sample", self.at_random), ("seed", self.seed)):
            if isinstance(number, bool) or not isinstance(number, int):
                raise KindError(f"`{argument}` must be a whole number. Got {shown(number)}.")
            if number < 0:
                raise ValueRefusedError(f"`{argument}` must be 0 or more. Got {number}.")

    @property
    def is_wanted(self) -> bool:
        """Whether any cell is swept."""
        return self.strongest + self.at_random > 0

    def choose(self, strengths: np.ndarray) -> tuple[list[int], list[int]]:
        """The numbers of the cells that are swept: the strongest, and those that are drawn.

        Args:
            strengths: How strong each cell is. Shape `(cell,)`; NaN is weakest.
        """
        order = np.argsort(-np.nan_to_num(strengths, nan=-1.0), kind="stable")
        strongest, remaining = order[: self.strongest], np.sort(order[self.strongest :])
        n_drawn = min(self.at_random, len(remaining))
        drawn = np.random.default_rng(self.seed).choice(remaining, n_drawn, replace=False)
        return sorted(strongest.tolist()), sorted(drawn.tolist())


def confirmed(
    estimate: Estimate,
    experiment: Experiment,
    confirmation: Confirmation,
    executor: str,
    progress: ProgressChoice,
    memory: int | None,
    checkpoint: str | os.PathLike[str] | None,
    group: mx.distributed.Group | None,
) -> Estimate:
    """An estimate with exact numbers in the cells that a confirmation chooses. Others keep their estimates."""
    shape = estimate.values.shape[: len(estimate.over)]
    strongest, drawn = confirmation.choose(_strengths(estimate).ravel())
    swept = [*strongest, *drawn]
    result, _ = run_experiment(
        lambda: _of_cells(experiment, swept), executor, progress, memory, checkpoint, group, experiment.model.layout
    )
    is_done = result.complete_cells
    finished = np.array(swept)[is_done]
    values = estimate.values.reshape(-1, *estimate.values.shape[len(shape) :]).copy()
    values[finished] = result.values[is_done]
    exact = np.zeros(len(values), bool)
    exact[finished] = True
    is_drawn = np.zeros(len(values), bool)
    is_drawn[drawn] = True
    provenance = {
        **estimate.provenance,
        "confirm": confirmation.strongest,
        "sample": confirmation.at_random,
        "seed": confirmation.seed,
        "executor": result.provenance["executor"],
    }
    return replace(
        estimate,
        values=values.reshape(estimate.values.shape),
        baseline=result.baseline,
        exact=exact.reshape(shape),
        sampled=(exact & is_drawn).reshape(shape),
        plan=result.plan,
        provenance=provenance,
    )


def _strengths(estimate: Estimate) -> np.ndarray:
    """How far each cell's mean lies from the baseline's; of several metrics, the first's. Shape `(*over)`."""
    single = estimate
    if "metric" in estimate.axes:
        single = estimate.of_metric(estimate.metrics[0])
    return np.abs(single.mean() - single.baseline_mean())


def _of_cells(experiment: Experiment, numbers: Sequence[int]) -> Experiment:
    """The experiment with some of its cells alone."""
    cells = tuple(tuple(group_cells[number] for number in numbers) for group_cells in experiment.cells)
    return replace(experiment, cells=cells, coords={"cell": tuple(f"cell {number}" for number in numbers)})


def refuse_draws(confirmation: Confirmation, experiment: Experiment) -> None:
    """Refuse to sweep some cells where standing edits differ from cell to cell.

    Raises:
        KindError: Cells are to be swept, and the standing edits draw from a seed of each.
    """
    if confirmation.is_wanted and experiment.standing_axis:
        raise KindError(
            f"`confirm` and `sample` must be 0 where standing edits differ along {experiment.standing_axis!r}. Got "
            f"{confirmation.strongest} and {confirmation.at_random}. Attribute one seed at a time, or use `sweep`."
        )
