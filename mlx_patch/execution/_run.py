"""From a plan to numbers: the passes one after the other, each evaluated while the next is being set up.

The numbers of a pass depend on the plan alone, and not on the passes that this process ran before it. So a sweep that
is resumed, or that is divided over several processes, returns the same numbers to the last bit.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from mlx_patch.execution._experiment import Experiment
from mlx_patch.execution.cells import Cell
from mlx_patch.execution.executors import Executor, executors
from mlx_patch.execution.passes import PassTask, UnpatchedRun, UnpatchedTask
from mlx_patch.execution.plan import Pass, Plan
from mlx_patch.execution.progress import Numbers, PassProgress
from mlx_patch.interventions.sources import Notes, norms_noted


def run_passes(
    experiment: Experiment,
    plan: Plan,
    numbers: Numbers,
    is_assigned: Callable[[int], bool],
    on_finished: Callable[[int], None],
    on_progress: Callable[[int], object] | None = None,
) -> None:
    """Run the passes of a plan that have not been run.

    Args:
        experiment: The sweep.
        plan: Its plan.
        numbers: The numbers so far; those of the passes are added.
        is_assigned: Whether this process runs the pass of a number.
        on_finished: Called after each pass, with the number of its cells, less those that `on_progress` was called
            with.
        on_progress: Called during a long pass, with a number of cells whose share of it is computed; None runs passes
            without steps.
    """
    pass_progress = PassProgress(on_progress)
    for group in range(len(experiment.batches)):
        passes = []
        for number, pass_ in enumerate(plan.passes):
            if pass_.group == group and is_assigned(number) and not _is_done(pass_, numbers):
                passes.append(pass_)
        if passes:
            _run_group(experiment, plan, numbers, passes, pass_progress, on_finished)


def _is_done(pass_: Pass, numbers: Numbers) -> bool:
    return bool(numbers.done[pass_.group, list(pass_.cells)].all())


def _run_group(
    experiment: Experiment,
    plan: Plan,
    numbers: Numbers,
    passes: Sequence[Pass],
    pass_progress: PassProgress,
    on_finished: Callable[[int], None],
) -> None:
    """Run passes of one group of prompts: the unpatched run, then one after the other."""
    group = passes[0].group
    rows = list(experiment.batches[group].examples)
    metrics = range(len(experiment.metrics))
    unpatched = _run_unpatched(experiment, plan, group)
    if experiment.with_baseline and not numbers.done[group].any():
        numbers.token_layers += unpatched.token_layers
        numbers.baseline[:, rows] = np.array(unpatched.values)
    passes = _skip_unchanged(unpatched, numbers, rows, passes, lambda cells: on_finished(pass_progress.rest(cells)))
    started = (_start_pass(experiment, plan, unpatched, pass_) for pass_ in passes)
    for running in _overlap(started, pass_progress):
        cells = running.shape.cells
        numbers.values[np.ix_(cells, metrics, rows)] = np.array(running.values)
        numbers.done[group, list(cells)] = True
        numbers.token_layers += running.cost()
        on_finished(pass_progress.rest(len(cells)))


def _skip_unchanged(
    unpatched: UnpatchedRun,
    numbers: Numbers,
    rows: Sequence[int],
    passes: Sequence[Pass],
    on_finished: Callable[[int], None],
) -> list[Pass]:
    """The passes without cells that change nothing, whose numbers are those of the unpatched run."""
    remaining_passes = []
    n_skipped = 0
    for pass_ in passes:
        entries = dict(zip(pass_.cells, pass_.entries, strict=True))
        skipped = [cell for cell in pass_.cells if cell in unpatched.unchanged]
        remaining = [cell for cell in pass_.cells if cell not in unpatched.unchanged]
        if skipped:
            numbers.values[np.ix_(skipped, range(numbers.values.shape[1]), rows)] = np.array(unpatched.values)
            numbers.done[pass_.group, skipped] = True
            n_skipped += len(skipped)
        if remaining:
            shape = replace(pass_, cells=tuple(remaining), entries=tuple(entries[cell] for cell in remaining))
            remaining_passes.append(shape)
    if n_skipped:
        numbers.skipped += n_skipped
        on_finished(n_skipped)
    return remaining_passes


def _run_unpatched(experiment: Experiment, plan: Plan, group: int) -> UnpatchedRun:
    """The unpatched run for all passes of a group, also where few of them are left to run here; empty without baseline.

    Where it begins, and the pieces in which it makes a past that cannot be cut afterwards, decide how it rounds.
    """
    if not experiment.with_baseline:
        return UnpatchedRun(mx.array(0.0), 0)
    layout = experiment.model.layout
    executor = executors()[plan.executor]
    task = UnpatchedTask(
        layout=layout,
        tokens=experiment.batches[group].tokens,
        readout=experiment.readouts[group],
        starts=sorted({pass_.start for pass_ in plan.passes if pass_.group == group}),
        sites=executor.unpatched_sites(layout, experiment.cells[group]),
        piece=plan.piece,
        cells=_cells_to_watch(experiment, executor, group),
        standing=experiment.standing_of(group),
        host_run=experiment.host_run_of(group),
        read_tokens=_read_tokens(experiment, executor, group),
    )
    with norms_noted() as norms:
        unpatched = experiment.measurement.run_unpatched(experiment.model, task)
    mx.eval(norms.arrays)
    norms.warn()
    return unpatched


def _read_tokens(experiment: Experiment, executor: Executor, group: int) -> tuple[int, ...]:
    """The tokens that metrics read, if they need no others; empty else, or where each cell runs by itself."""
    layout = experiment.model.layout
    if layout.family.final_norm is None or _runs_cells_alone(experiment, executor):
        return ()
    return experiment.readouts[group].tokens() or ()


def _cells_to_watch(experiment: Experiment, executor: Executor, group: int) -> Sequence[Cell]:
    """The cells that need not run if they change nothing: none where each runs by itself."""
    if _runs_cells_alone(experiment, executor):
        return ()
    return experiment.cells[group]


def _runs_cells_alone(experiment: Experiment, executor: Executor) -> bool:
    return executor.one_cell_a_pass or experiment.measurement.needs_own_pass


@dataclass(frozen=True)
class RunningPass:
    """A pass whose values are being computed.

    Attributes:
        shape: The pass of the plan.
        values: Shape `(cell, metric, batch)`.
        cost: Its token-layers, once it was set up.
        norms: The norms of what it takes means over.
        stages: Values that are computed on the way, with the token-layers before each.
    """

    shape: Pass
    values: mx.array
    cost: Callable[[], int]
    norms: Notes
    stages: list[tuple[int, mx.array]]

    def evaluate(self) -> None:
        """Wait for the values, and warn where a position stands out of a mean."""
        mx.eval(self.values, self.norms.arrays)
        self.norms.warn()


def _start_pass(experiment: Experiment, plan: Plan, unpatched: UnpatchedRun, pass_: Pass) -> RunningPass:
    """A pass that is set up, its values unevaluated."""
    group = pass_.group
    stages: list[tuple[int, mx.array]] = []
    task = PassTask(
        layout=experiment.model.layout,
        tokens=experiment.batches[group].tokens,
        shape=pass_,
        cells=[experiment.cells[group][number] for number in pass_.cells],
        readout=experiment.readouts[group],
        piece=plan.piece,
        stages=stages,
    )
    executor = executors()[plan.executor]
    with norms_noted() as norms:
        values, cost = experiment.measurement.run_pass(experiment.model, task, executor, unpatched)
    return RunningPass(pass_, values, cost, norms, stages)


def _overlap(passes: Iterator[RunningPass], pass_progress: PassProgress) -> Iterator[RunningPass]:
    """Evaluate one pass at a time, each while the next is being set up.

    Each is handed on before the next is sent to the device, which on a CPU takes most of its time. Where setting up
    the next fails, the one before is not lost.
    """
    previous: RunningPass | None = None
    while True:
        try:
            following = next(passes, None)
        except BaseException:
            if previous is not None:
                previous.evaluate()
                yield previous
            raise
        if previous is not None:
            previous.evaluate()
            yield previous
        if following is None:
            return
        _send(following, pass_progress)
        previous = following


def _send(running: RunningPass, pass_progress: PassProgress) -> None:
    """Send a pass to the device: at once, or stage after stage where progress is shown.

    One stage is always on its way while the one before is waited for, so that the device never waits.
    """
    previous: tuple[int, mx.array] | None = None
    while running.stages and pass_progress.show is not None:
        stage = running.stages.pop(0)
        mx.async_eval(stage[1])
        _wait_for_stage(previous, running, pass_progress)
        previous = stage
    running.stages.clear()  # they would hold on to their arrays
    mx.async_eval(running.values, running.norms.arrays)
    _wait_for_stage(previous, running, pass_progress)


def _wait_for_stage(stage: tuple[int, mx.array] | None, running: RunningPass, pass_progress: PassProgress) -> None:
    if stage is None:
        return
    token_layers, values = stage
    mx.eval(values)
    share = token_layers / max(1, running.cost())
    pass_progress.reached(share, len(running.shape.cells))
