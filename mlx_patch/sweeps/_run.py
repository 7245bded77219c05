"""From a plan to numbers: the passes one after the other, each evaluated while the next is being set up.

What a pass gives depends on the plan alone, and not on which passes were run before it in this process: so a sweep that
goes on where it was stopped, or that is divided over several processes, finds the same numbers to the last bit.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_patch.interventions import Notes, norms_noted
from mlx_patch.model import run
from mlx_patch.sweeps._base import Base, run_base
from mlx_patch.sweeps._cells import unedited_sites
from mlx_patch.sweeps._passes import Rows
from mlx_patch.sweeps._plan import Pass, Plan
from mlx_patch.sweeps._progress import Within
from mlx_patch.sweeps._reading import Reading
from mlx_patch.sweeps._setup import Setup
from mlx_patch.sweeps._speaking import all_spoken


@dataclass
class Numbers:
    """What a sweep has found so far.

    Attributes:
        values: NaN where nothing has been run, and where NaN was computed. Shape `(cell, metric, example)`, float32.
        done: Which cells have been run, for each group of prompts. Shape `(group, cell)`.
        baseline: The unedited runs. Shape `(metric, example)`, float32.
        token_layers: What went through the blocks for these numbers, counted as it went. An unedited run that a
            resumed sweep needs again is not counted again.
    """

    values: np.ndarray
    done: np.ndarray
    baseline: np.ndarray
    token_layers: int = 0

    def mask(self, examples: Sequence[Sequence[int]]) -> np.ndarray:
        """Which values have been run. Shape `(cell, metric, example)`.

        Args:
            examples: The examples of each group of prompts.
        """
        mask = np.zeros(self.values.shape, bool)
        for done, rows in zip(self.done, examples, strict=True):
            mask[..., list(rows)] = done[:, None, None]
        return mask


def no_numbers(setup: Setup) -> Numbers:
    """What a sweep has found before it begins."""
    cells, metrics, examples = len(setup.cells[0]), len(setup.metrics), setup.n_examples
    return Numbers(
        np.full((cells, metrics, examples), np.nan, np.float32),
        np.zeros((len(setup.batches), cells), bool),
        np.full((metrics, examples), np.nan, np.float32),
    )


def run_passes(
    setup: Setup,
    plan: Plan,
    numbers: Numbers,
    mine: Callable[[int], bool],
    finished: Callable[[int], None],
    more: Callable[[int], object] | None = None,
) -> None:
    """Run what is left of a plan.

    Args:
        setup: The sweep.
        plan: Its plan.
        numbers: What has been found so far; what is found is put in.
        mine: Whether the pass of a number is to be run here.
        finished: Called after each pass, with the number of its cells, less those that `more` was called with.
        more: Called inside a long pass, with a number of cells whose share of it is computed; None leaves passes whole.
    """
    within = Within(more)
    left = [one for n, one in enumerate(plan.passes) if mine(n) and not numbers.done[one.group, list(one.cells)].all()]
    for group, batch in enumerate(setup.batches):
        passes = [one for one in left if one.group == group]
        rows = list(batch.examples)
        if not passes:
            continue
        base = _base(setup, plan, group)
        if not numbers.done[group].any():
            numbers.token_layers += base.token_layers
            numbers.baseline[:, rows] = np.array(base.values)
        for started in _overlapped((_started(setup, plan, base, one) for one in passes), within):
            cells = started.one.cells
            numbers.values[np.ix_(cells, range(len(setup.metrics)), rows)] = np.array(started.values)
            numbers.done[group, list(cells)] = True
            numbers.token_layers += started.cost()
            finished(within.rest(len(cells)))


def _base(setup: Setup, plan: Plan, group: int) -> Base:
    """The unedited run for all passes of a group, also where few of them are left to run here.

    Where it begins, and the pieces in which a past is made that cannot be cut afterwards, decide how it rounds.
    """
    if setup.speaks:
        return _base_of_speech(setup, plan, group)
    starts = sorted({one.start for one in plan.passes if one.group == group})
    sites = unedited_sites(setup.model.layout, setup.cells[group]) if plan.executor == "grow" else ()
    return run_base(setup.model.layout, setup.batches[group].tokens, setup.readings[group], starts, sites, plan.piece)


def _base_of_speech(setup: Setup, plan: Plan, group: int) -> Base:
    """What is written after the unedited prompts; and the pasts of cells that begin later, which share one run."""
    tokens, metrics = setup.batches[group].tokens, setup.readings[group].metrics
    starts = {one.start for one in plan.passes if one.group == group and one.start}
    if not starts:
        values, cost = all_spoken(setup.model, tokens, metrics)
        return Base(values, 0, token_layers=cost)
    last = tokens.shape[1] - 1
    base = run_base(setup.model.layout, tokens, Reading((), (last,)), sorted({*starts, last}), (), plan.piece)
    base.values, cost = all_spoken(setup.model, tokens, metrics, past=base.past[last])
    base.token_layers += cost
    return base


@dataclass(frozen=True)
class Started:
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


def _started(setup: Setup, plan: Plan, base: Base, one: Pass) -> Started:
    """A pass, set up."""
    stages: list[tuple[int, mx.array]] = []
    with norms_noted() as norms:
        values, cost = _values(setup, plan, base, one, stages)
    return Started(one, values, cost, norms, stages)


def _values(
    setup: Setup, plan: Plan, base: Base, one: Pass, stages: list[tuple[int, mx.array]]
) -> tuple[mx.array, Callable[[], int]]:
    """The values of a pass, unevaluated; and what they cost, once they are. What is on the way goes to `stages`."""
    layout, batch, reading = setup.model.layout, setup.batches[one.group], setup.readings[one.group]
    cells = [setup.cells[one.group][i] for i in one.cells]
    if setup.speaks:
        past = base.past[one.start] if one.start else None
        found = [all_spoken(setup.model, batch.tokens, reading.metrics, cell.edits, past) for cell in cells]
        return mx.stack([values for values, _ in found]), lambda: sum(cost for _, cost in found)
    if plan.executor == "reference":
        logits = [run(layout, batch.tokens, cell.edits, logits_at=reading.at).logits for cell in cells]
        values = mx.stack([reading.measure(each, batch.length) for each in logits])
        return values, lambda: batch.tokens.size * plan.n_layers * len(cells)
    rows = Rows(layout, batch.tokens, one.start, cells, one.entries, plan.piece, stages=stages)
    values = rows.run(base, reading, grow=plan.executor == "grow")
    return values, lambda: rows.token_layers


def _overlapped(started: Iterator[Started], within: Within) -> Iterator[Started]:
    """Evaluate one at a time, each while the next is being set up. Where that fails, the one before is not lost."""
    before: Started | None = None
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


def _evaluated(started: Started | None) -> Iterator[Started]:
    """A pass, once it is evaluated. It is handed on before the next is begun, which on a CPU takes most of its time."""
    if started is not None:
        mx.eval(started.values, started.norms.arrays)
        started.norms.warn()
        yield started


def _begin(started: Started, within: Within) -> None:
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


def _reached(stage: tuple[int, mx.array] | None, started: Started, within: Within) -> None:
    if stage is not None:
        mx.eval(stage[1])
        within.reached(stage[0] / max(1, started.cost()), len(started.one.cells))
