"""From an experiment to a result: the plan, the checkpoint, the passes of all ranks, and Ctrl-C."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import mlx.core as mx
import numpy as np

from mlx_patch.architectures import Layout
from mlx_patch.execution._experiment import Experiment
from mlx_patch.execution._labels import build_result
from mlx_patch.execution._run import run_passes
from mlx_patch.execution.cells import Cell
from mlx_patch.execution.executors import Executor, choose_executor
from mlx_patch.execution.plan import (
    Bounds,
    Plan,
    PromptGroup,
    bounds_of,
    footprint,
    make_plan,
    minimum_of,
    shares,
)
from mlx_patch.execution.progress import (
    Checkpoint,
    Numbers,
    Progress,
    ProgressChoice,
    checked_path,
    described,
    merge,
    no_numbers,
    packed,
    refuse_unwritable,
    sweep_identity,
    take_fewest,
)
from mlx_patch.execution.ranks import Ranks, ranks_of
from mlx_patch.results import SweepResult

SweepOutcome = tuple[SweepResult, bool]
"""A result, and whether Ctrl-C ended the sweep before it was complete."""


def run_experiment(
    make_experiment: Callable[[], Experiment],
    executor: str,
    progress: ProgressChoice,
    memory: int | None,
    checkpoint: str | os.PathLike[str] | None,
    group: mx.distributed.Group | None,
    layout: Layout,
) -> SweepOutcome:
    """The result of an experiment, and whether Ctrl-C ended it."""
    start_time = perf_counter()
    ranks = ranks_of(group, layout)
    ranks.refuse_other_versions()
    with ranks.together():
        path = None
        if checkpoint is not None:
            path = ranks.own_file(checked_path(checkpoint))
            if not path.exists():
                refuse_unwritable(path)
        experiment = make_experiment()
        bounds = bounds_of(memory)
    bounds = replace(bounds, memory=ranks.least(bounds.memory))
    with ranks.together():
        plan, numbers, save = _prepare(experiment, executor, bounds, path)
    if ranks.size > 1:
        ranks.refuse_others(described(experiment, plan, is_whole=ranks.divided))
        if not ranks.divided:
            take_fewest(numbers, ranks.exchange(packed(numbers)))
    with ranks.together():
        cells_done = int(numbers.done.sum())
        if ranks.rank != 0 and not callable(progress):
            progress = False
        display = Progress(progress, plan.n_cells, cells_done)
    with display:
        if cells_done:
            display.add(0)
        interrupted = _compute_numbers(experiment, plan, numbers, ranks, save, display)
    seconds = perf_counter() - start_time
    return build_result(experiment, plan, numbers, seconds), interrupted


def measure_cells(experiment: Experiment) -> np.ndarray:
    """The metrics of every cell, each in a full forward pass of its own. Shape `(cell, metric, example)`, float32.

    An experiment without baseline has no other run.
    """
    numbers = no_numbers(experiment)
    plan = plan_experiment(experiment, "reference", Bounds())
    run_passes(experiment, plan, numbers, is_assigned=lambda number: True, on_finished=lambda cells: None)
    if experiment.answers is None:
        return numbers.values
    return experiment.answers.combined(numbers.values)


SaveNumbers = Callable[[Numbers], None]


def _prepare(
    experiment: Experiment, executor: str, bounds: Bounds, path: Path | None
) -> tuple[Plan, Numbers, SaveNumbers]:
    """The plan, the numbers of its checkpoint or blank ones, and what saves them after each pass."""
    blank = no_numbers(experiment)
    fresh = plan_experiment(experiment, executor, bounds)
    if path is None:
        return fresh, blank, lambda numbers: None
    checkpoint = Checkpoint(path, sweep_identity(experiment, fresh.executor))
    plan, numbers = checkpoint.read(blank, fresh) or (fresh, blank)
    if not numbers.done.all():  # one that is complete may be read from anywhere
        refuse_unwritable(path)
    return plan, numbers, checkpoint.writer(plan)


def _compute_numbers(
    experiment: Experiment, plan: Plan, numbers: Numbers, ranks: Ranks, save: SaveNumbers, display: Progress
) -> bool:
    """Fill in the numbers of all passes, here and on other ranks; after Ctrl-C, of those that were run.

    Returns:
        Whether Ctrl-C ended it.
    Raises:
        KeyboardInterrupt: Ctrl-C, before there are any numbers.
    """
    if ranks.divided:
        rank_of_pass = shares(plan, ranks.size)
    else:
        rank_of_pass = [ranks.rank] * len(plan.passes)

    def is_assigned(number: int) -> bool:
        return rank_of_pass[number] == ranks.rank

    def run(report: Callable[[int], None]) -> None:
        if ranks.size > 1 and not numbers.done.any():
            save(numbers)  # the plan: a rank that is killed in its first pass resumes with that of the others

        def on_finished(cells: int) -> None:
            save(numbers)
            report(cells)

        # Several ranks must evaluate alike, whichever of them shows progress: the ranks of a sharded model wait for
        # each other.
        on_progress = report if display.is_shown and ranks.size == 1 else None
        run_passes(experiment, plan, numbers, is_assigned, on_finished, on_progress)

    interrupted, messages = ranks.work(run, lambda: packed(numbers), display.add)
    if interrupted and numbers.done.any():
        save(numbers)
    if messages:
        merge(numbers, messages, [batch.examples for batch in experiment.batches])
    if interrupted and not numbers.done.any():
        raise KeyboardInterrupt
    return interrupted


def plan_experiment(experiment: Experiment, executor_name: str, bounds: Bounds) -> Plan:
    """The passes that a sweep needs, and what they cost.

    Args:
        experiment: The sweep.
        executor_name: The executor's name, or "auto".
        bounds: How large a pass may get.
    Raises:
        UnknownNameError: There is no such executor.
        ArchitectureError: It cannot run these cells on this architecture.
    """
    executor, why = _choose_executor(experiment, executor_name)
    layout = experiment.model.layout
    groups = [PromptGroup(batch.length, batch.tokens.shape[0]) for batch in experiment.batches]
    n_layers = len(layout.blocks)
    if experiment.measurement.needs_own_pass:
        bounds = replace(bounds, rows=1)
    memory = footprint(layout, experiment.readouts)
    plan = make_plan(_cells_of(experiment, executor), groups, n_layers, executor, bounds, memory, why)
    minimum = minimum_of(_delay_starts(experiment), _cut_behind_readouts(experiment, groups), n_layers)
    plan = replace(plan, minimum=minimum, standing=len(experiment.standing_of(0)), draws=experiment.n_draws)
    return replace(plan, written=experiment.measurement.further_cost(plan, experiment.metrics))


def _cells_of(experiment: Experiment, executor: Executor) -> list[list[Cell]]:
    """The cells of each group, each begun where the executor's rows must begin."""
    cells_by_group = []
    for cells in experiment.cells:
        cells_by_group.append([_begun_for(cell, executor) for cell in cells])
    return cells_by_group


def _begun_for(cell: Cell, executor: Executor) -> Cell:
    if executor.whole_rows and cell.whole_start is not None:
        return replace(cell, start=cell.whole_start)
    return cell


def _delay_starts(experiment: Experiment) -> list[list[Cell]]:
    """The cells of each group, each begun at the first position that differs: the start of the cheapest exact run."""
    cells_by_group = []
    for cells in experiment.cells:
        cells_by_group.append([replace(cell, start=cell.changed) for cell in cells])
    return cells_by_group


def _cut_behind_readouts(experiment: Experiment, groups: Sequence[PromptGroup]) -> list[PromptGroup]:
    """The prompts without what lies behind the last position that a metric reads."""
    shortened = []
    for group, readout in zip(groups, experiment.readouts, strict=True):
        length = group.length
        if readout.at is not None:
            length = min(length, readout.at[-1] + 1)
        shortened.append(replace(group, length=length))
    return shortened


def _choose_executor(experiment: Experiment, name: str) -> tuple[Executor, str]:
    """The executor, and why no cheaper one can run all cells."""
    cells = [cell for group_cells in experiment.cells for cell in group_cells]
    return choose_executor(name, experiment.model.layout, cells, experiment.measurement.needs_whole_rows)
