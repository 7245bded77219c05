"""From a experiment to a result: the plan, what a checkpoint holds, the passes of all ranks, and Ctrl-C."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import mlx.core as mx

from mlx_patch.architectures import Layout
from mlx_patch.execution._experiment import Experiment
from mlx_patch.execution._labels import build_result
from mlx_patch.execution._run import run_passes
from mlx_patch.execution.executors import Executor, choose_executor
from mlx_patch.execution.plan import (
    Bounds,
    Plan,
    PromptGroup,
    bounds_of,
    footprint,
    generation_cost_bound,
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
    sweep_identity,
)
from mlx_patch.execution.ranks import Ranks, ranks_of
from mlx_patch.results import SweepResult

SweepOutcome = tuple[SweepResult, bool]
"""A result, and whether Ctrl-C ended the sweep before all of it was found."""


def run_experiment(
    make_experiment: Callable[[], Experiment],
    executor: str,
    progress: ProgressChoice,
    memory: int | None,
    checkpoint: str | os.PathLike[str] | None,
    group: mx.distributed.Group | None,
    layout: Layout,
) -> SweepOutcome:
    """A sweep from its experiment to its result, and whether Ctrl-C ended it."""
    began = perf_counter()
    ranks = ranks_of(group, layout)
    with ranks.together():
        path = None if checkpoint is None else ranks.own_file(checked_path(checkpoint))
        experiment = make_experiment()
        bounds = bounds_of(memory)
    bounds = replace(bounds, memory=ranks.least(bounds.memory))
    with ranks.together():
        planned, numbers, keep = _begun(experiment, executor, bounds, path)
        done = int(numbers.done.sum())
        shown = Progress(progress if ranks.rank == 0 or callable(progress) else False, planned.n_cells, done)
    ranks.refuse_others(described(experiment, planned))
    with shown:
        if done:
            shown.more(0)
        interrupted = _find(experiment, planned, numbers, ranks, keep, shown)
    return build_result(experiment, planned, numbers, perf_counter() - began), interrupted


Keep = Callable[[Numbers], None]


def _begun(experiment: Experiment, executor: str, bounds: Bounds, path: Path | None) -> tuple[Plan, Numbers, Keep]:
    """The plan, what has been found already, and what keeps what is found."""
    blank = no_numbers(experiment)
    if path is None:
        return plan_experiment(experiment, executor, bounds), blank, lambda numbers: None
    saved = Checkpoint(path, sweep_identity(experiment, _executor(experiment, executor)[0].name))
    planned, numbers = saved.read(blank) or (plan_experiment(experiment, executor, bounds), blank)
    return planned, numbers, saved.writer(planned)


def _find(experiment: Experiment, planned: Plan, numbers: Numbers, ranks: Ranks, keep: Keep, shown: Progress) -> bool:
    """Put in what all passes find, here and on other ranks; after Ctrl-C, what they have found, if they have.

    Returns:
        Whether it was Ctrl-C.
    """
    rank_of = shares(planned, ranks.size if ranks.divided else 1)

    def run(finished: Callable[[int], None]) -> None:
        def kept(cells: int) -> None:
            keep(numbers)
            finished(cells)

        # Several ranks evaluate alike, whoever of them shows it: a model that is sharded waits for all.
        inside = finished if shown.seen and ranks.size == 1 else None
        run_passes(experiment, planned, numbers, lambda n: not ranks.divided or rank_of[n] == ranks.rank, kept, inside)

    interrupted, said = ranks.work(run, lambda: packed(numbers), shown.more)
    if interrupted and numbers.done.any():
        keep(numbers)
    if said:
        merge(numbers, said, [batch.examples for batch in experiment.batches])
    if interrupted and not numbers.done.any():
        raise KeyboardInterrupt
    return interrupted


def plan_experiment(experiment: Experiment, wanted: str, bounds: Bounds) -> Plan:
    """The passes that a sweep needs, and what they cost.

    Args:
        experiment: The sweep.
        wanted: The executor's name, or "auto".
        bounds: How large a pass may get.
    Raises:
        UnknownNameError: There is no such executor.
        ArchitectureError: It cannot run these cells on this architecture.
    """
    executor, why = _executor(experiment, wanted)
    groups = [PromptGroup(batch.length, batch.tokens.shape[0]) for batch in experiment.batches]
    layers = len(experiment.model.layout.blocks)
    bounds = replace(bounds, rows=1) if experiment.generates else bounds
    planned = make_plan(
        experiment.cells, groups, layers, executor, bounds, footprint(experiment.model.layout, experiment.readouts), why
    )
    least = [[replace(cell, start=cell.changed) for cell in own] for own in experiment.cells]
    planned = replace(planned, minimum=minimum_of(least, groups, layers))
    return (
        replace(planned, written=generation_cost_bound(planned, experiment.metrics))
        if experiment.generates
        else planned
    )


def _executor(experiment: Experiment, wanted: str) -> tuple[Executor, str]:
    """The executor, and why no cheaper one can run all cells."""
    cells = [cell for of_group in experiment.cells for cell in of_group]
    return choose_executor(wanted, experiment.model.layout, cells, experiment.generates)
