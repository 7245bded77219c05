"""From a plan to numbers: the passes one after the other, each evaluated while the next is being set up.

What a pass gives depends on the plan alone, and not on which passes were run before it in this process: so a sweep that
goes on where it was stopped, or that is divided over several processes, finds the same numbers to the last bit.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_patch.execution._experiment import Experiment
from mlx_patch.execution.executors import PassTask, executors
from mlx_patch.execution.passes import UnpatchedRun, run_unpatched
from mlx_patch.execution.plan import Pass, Plan
from mlx_patch.execution.progress import Numbers, Within
from mlx_patch.execution.readouts import Readout, match_rates
from mlx_patch.interventions.sources import Notes, norms_noted


def run_passes(
    experiment: Experiment,
    plan: Plan,
    numbers: Numbers,
    mine: Callable[[int], bool],
    finished: Callable[[int], None],
    more: Callable[[int], object] | None = None,
) -> None:
    """Run what is left of a plan.

    Args:
        experiment: The sweep.
        plan: Its plan.
        numbers: What has been found so far; what is found is put in.
        mine: Whether the pass of a number is to be run here.
        finished: Called after each pass, with the number of its cells, less those that `more` was called with.
        more: Called inside a long pass, with a number of cells whose share of it is computed; None leaves passes whole.
    """
    within = Within(more)
    left = [one for n, one in enumerate(plan.passes) if mine(n) and not numbers.done[one.group, list(one.cells)].all()]
    for group, batch in enumerate(experiment.batches):
        passes = [one for one in left if one.group == group]
        rows = list(batch.examples)
        if not passes:
            continue
        unpatched = _unpatched_run(experiment, plan, group)
        if not numbers.done[group].any():
            numbers.token_layers += unpatched.token_layers
            numbers.baseline[:, rows] = np.array(unpatched.values)
        for started in _overlapped((_started(experiment, plan, unpatched, one) for one in passes), within):
            cells = started.one.cells
            numbers.values[np.ix_(cells, range(len(experiment.metrics)), rows)] = np.array(started.values)
            numbers.done[group, list(cells)] = True
            numbers.token_layers += started.cost()
            finished(within.rest(len(cells)))


def _unpatched_run(experiment: Experiment, plan: Plan, group: int) -> UnpatchedRun:
    """The unedited run for all passes of a group, also where few of them are left to run here.

    Where it begins, and the pieces in which a past is made that cannot be cut afterwards, decide how it rounds.
    """
    if experiment.generates:
        return _unpatched_with_text(experiment, plan, group)
    starts = sorted({one.start for one in plan.passes if one.group == group})
    sites = executors()[plan.executor].unpatched_sites(experiment.model.layout, experiment.cells[group])
    return run_unpatched(
        experiment.model.layout, experiment.batches[group].tokens, experiment.readouts[group], starts, sites, plan.piece
    )


def _unpatched_with_text(experiment: Experiment, plan: Plan, group: int) -> UnpatchedRun:
    """What is written after the unedited prompts; and the pasts of cells that begin later, which share one run."""
    tokens, metrics = experiment.batches[group].tokens, experiment.readouts[group].metrics
    starts = {one.start for one in plan.passes if one.group == group and one.start}
    if not starts:
        values, cost = match_rates(experiment.model, tokens, metrics)
        return UnpatchedRun(values, 0, token_layers=cost)
    last = tokens.shape[1] - 1
    unpatched = run_unpatched(
        experiment.model.layout, tokens, Readout((), (last,)), sorted({*starts, last}), (), plan.piece
    )
    unpatched.values, cost = match_rates(experiment.model, tokens, metrics, past=unpatched.past[last])
    unpatched.token_layers += cost
    return unpatched


@dataclass(frozen=True)
class RunningPass:
    """A pass whose values are being computed.

    Attributes:
        one: The pass.
        values: Shape `(cell, metric, batch)`.
        cost: Its token-layers, once it was set up.
        norms: Of what means are taken over in it.
        stages: What is computed on the way, with the token-layers before it.
    """

    one: Pass
    values: mx.array
    cost: Callable[[], int]
    norms: Notes
    stages: list[tuple[int, mx.array]]


def _started(experiment: Experiment, plan: Plan, unpatched: UnpatchedRun, one: Pass) -> RunningPass:
    """A pass, set up."""
    stages: list[tuple[int, mx.array]] = []
    with norms_noted() as norms:
        values, cost = _values(experiment, plan, unpatched, one, stages)
    return RunningPass(one, values, cost, norms, stages)


def _values(
    experiment: Experiment, plan: Plan, unpatched: UnpatchedRun, one: Pass, stages: list[tuple[int, mx.array]]
) -> tuple[mx.array, Callable[[], int]]:
    """The values of a pass, unevaluated; and what they cost, once they are. What is on the way goes to `stages`."""
    layout, batch, readout = experiment.model.layout, experiment.batches[one.group], experiment.readouts[one.group]
    cells = [experiment.cells[one.group][i] for i in one.cells]
    if experiment.generates:
        past = unpatched.past[one.start] if one.start else None
        found = [match_rates(experiment.model, batch.tokens, readout.metrics, cell.edits, past) for cell in cells]
        return mx.stack([values for values, _ in found]), lambda: sum(cost for _, cost in found)
    task = PassTask(layout, batch.tokens, one, cells, readout, plan.piece, stages)
    return executors()[plan.executor].run(task, unpatched)


def _overlapped(started: Iterator[RunningPass], within: Within) -> Iterator[RunningPass]:
    """Evaluate one at a time, each while the next is being set up. Where that fails, the one before is not lost."""
    before: RunningPass | None = None
    while True:
        try:
            after = next(started, None)
        except BaseException:
            yield from _evaluated(before)
            raise
        yield from _evaluated(before)
        if after is None:
            return
        _begin(after, within)
        before = after


def _evaluated(started: RunningPass | None) -> Iterator[RunningPass]:
    """A pass, once it is evaluated. It is handed on before the next is begun, which on a CPU takes most of its time."""
    if started is not None:
        mx.eval(started.values, started.norms.arrays)
        started.norms.warn()
        yield started


def _begin(started: RunningPass, within: Within) -> None:
    """Send a pass to the device: at once, or stage after stage where somebody sees how far it is.

    One stage is always on its way while the one before is waited for, so that the device never waits.
    """
    before: tuple[int, mx.array] | None = None
    while started.stages and within.more is not None:
        stage = started.stages.pop(0)
        mx.async_eval(stage[1])
        _reached(before, started, within)
        before = stage
    started.stages.clear()  # they would hold on to their arrays
    mx.async_eval(started.values, started.norms.arrays)
    _reached(before, started, within)


def _reached(stage: tuple[int, mx.array] | None, started: RunningPass, within: Within) -> None:
    if stage is not None:
        mx.eval(stage[1])
        within.reached(stage[0] / max(1, started.cost()), len(started.one.cells))
