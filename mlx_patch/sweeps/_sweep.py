"""`sweep`: many patched runs, at the cost of few. `plan`: what that would be."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import mlx.core as mx

from mlx_patch.architectures import Layout
from mlx_patch.interventions import Intervention
from mlx_patch.model import HookedModel, require_hooked
from mlx_patch.sites import Site
from mlx_patch.sweeps._checkpoint import Checkpoint, checked_path
from mlx_patch.sweeps._executors import chosen_executor
from mlx_patch.sweeps._identity import identity_of
from mlx_patch.sweeps._memory import bounds_of, footprint
from mlx_patch.sweeps._messages import described, merge, packed
from mlx_patch.sweeps._outcome import result_of
from mlx_patch.sweeps._plan import Bounds, Executor, Group, Plan, make_plan, minimum_of
from mlx_patch.sweeps._progress import Progress, ProgressChoice
from mlx_patch.sweeps._prompts import Prompts
from mlx_patch.sweeps._ranks import Ranks, ranks_of
from mlx_patch.sweeps._result import SweepResult
from mlx_patch.sweeps._run import Numbers, no_numbers, run_passes
from mlx_patch.sweeps._setup import CellChoice, Setup, set_up
from mlx_patch.sweeps._shares import shares
from mlx_patch.sweeps._speaking import both_kinds, most_written
from mlx_patch.sweeps._with_speech import Swept, refuse_with_both, sorted_out, sweep_both


def sweep(
    model: HookedModel,
    tokens: Prompts,
    intervention: Intervention | Sequence[Intervention] | None = None,
    at: str | Site | Sequence[str | Site] | None = None,
    over: str | Sequence[str] | Sequence[CellChoice] = ("layer",),
    metric: object = None,
    layers: Any = None,
    positions: Any = None,
    heads: Any = None,
    neurons: Any = None,
    alphas: Any = None,
    executor: str = "auto",
    progress: ProgressChoice = None,
    memory: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    group: mx.distributed.Group | None = None,
) -> SweepResult:
    """Patch many places, one after another, and measure each time: exact, at the least cost that the arithmetic allows.

    A cell is one patched run; `over` says what varies from cell to cell. Cells share what they have in common: what
    lies before the first patched position, and below the first patched layer, is computed once.

    Args:
        model: The model.
        tokens: Token ids, shape `(batch, pos)` or `(pos,)`; a text; chat messages; or a list of prompts, which run in
            groups of equal length. Each prompt is an example.
        intervention: What to do; or a list of them, one a prompt, where each prompt has its own source.
        at: A site, or several where `over` has "site".
        over: Axes, of "site", "layer", "pos", "head", "neuron" and "alpha" (of an `Interpolate`), in the order in which
            the result has them. Or a list of cells: edits, lists of edits, or dicts for `Intervention.at`.
        metric: A metric or a list of them: values, functions of logits, or registered names. Of answers of several
            tokens each is appended to the prompt in a run of its own; edits act in the prompt, and see it alone.
        layers: Which layers, numbers or a slice; None is all that have the site. A group of ints is patched together:
            see `windows`, `up_to` and `onwards`. Where `over` does not have the axis, the choice holds in every cell.
        positions: Which positions, absolute or from the end; a slice, where all prompts are of one length; selectors of
            `mp.pos`; None is all. Groups as for layers.
        heads: Which heads. Groups as for layers.
        neurons: Which entries of the site's last axis. Groups as for layers.
        alphas: How far to go, where `over` has "alpha".
        executor: "auto", or "grow", "rows" or "reference", one full forward pass a cell.
        progress: A function of (cells done, cells in all); True or False for a bar or none; None for a bar on a
            terminal or in a notebook. Inside a long pass, the cells that its share of the work stands for count.
        memory: Bytes that a pass may take beside the weights; None is half of what the device has left, where it says.
        checkpoint: A file that holds, after each pass, all that has been found. If it is there, the sweep goes on from
            it, by the plan that it was begun with, and its numbers are to the last bit those of a sweep that was never
            stopped; if all is in it, nothing is run. It must be of the same versions, model and weights, prompts,
            cells, interventions and their sources, metrics and executor; `mlx_patch.fingerprints` says what
            makes functions the same. It stays when the sweep is done: delete it when the result is saved.
        group: `mx.distributed.init()` under `mlx.launch`: its ranks, which all call this with the same arguments,
            divide the passes, and each returns the whole result. None runs all passes here.
    Returns:
        The numbers of every cell, with axes and coordinates. Ctrl-C returns what is done, with NaN for the rest.
    Raises:
        PatchError: Whatever cannot be run is refused before the first pass, with the reason.
        FileError: `checkpoint` cannot be written or read, or is of another sweep; the message says what differs.
        KindError: With a checkpoint, an intervention or a metric holds what no other process could know again.
        RankError: Another rank failed, is gone, or runs another sweep.
        KeyboardInterrupt: Ctrl-C, before anything is done.
    Source:
        Vig et al. 2020, https://arxiv.org/abs/2004.12265, section 3; Meng et al. 2022, https://arxiv.org/abs/2202.05262,
        section 2; Heimersheim and Nanda 2024, https://arxiv.org/abs/2404.15255, for what to measure.
    """
    require_hooked("model", model)
    asked: dict[str, Any] = {"over": over, "layers": layers, "positions": positions, "heads": heads}
    asked |= {"neurons": neurons, "alphas": alphas}

    def sweep_of(metrics: Any, shown: bool = True) -> Swept:
        given = (model, tokens, intervention, at)
        how = (executor, progress if shown else False, memory, checkpoint, group, model.layout)
        return _swept(lambda: set_up(*given, metric=metrics, **asked), *how)

    if not both_kinds(metric):
        return sweep_of(metric)[0]
    refuse_with_both(checkpoint=checkpoint, group=group)
    return sweep_both(model, sweep_of, metric)


def _swept(
    set_up_all: Callable[[], Setup],
    executor: str,
    progress: ProgressChoice,
    memory: int | None,
    checkpoint: str | os.PathLike[str] | None,
    group: mx.distributed.Group | None,
    layout: Layout,
) -> Swept:
    """A sweep from its setup to its result, and whether Ctrl-C ended it."""
    began = perf_counter()
    ranks = ranks_of(group, layout)
    with ranks.together():
        path = None if checkpoint is None else ranks.own_file(checked_path(checkpoint))
        setup = set_up_all()
        bounds = bounds_of(memory)
    bounds = replace(bounds, memory=ranks.least(bounds.memory))
    with ranks.together():
        planned, numbers, keep = _begun(setup, executor, bounds, path)
        done = int(numbers.done.sum())
        shown = Progress(progress if ranks.rank == 0 or callable(progress) else False, planned.n_cells, done)
    ranks.refuse_others(described(setup, planned))
    with shown:
        if done:
            shown.more(0)
        interrupted = _find(setup, planned, numbers, ranks, keep, shown)
    return result_of(setup, planned, numbers, perf_counter() - began), interrupted


Keep = Callable[[Numbers], None]


def _begun(setup: Setup, executor: str, bounds: Bounds, path: Path | None) -> tuple[Plan, Numbers, Keep]:
    """The plan, what has been found already, and what keeps what is found."""
    blank = no_numbers(setup)
    if path is None:
        return _planned(setup, executor, bounds), blank, lambda numbers: None
    saved = Checkpoint(path, identity_of(setup, _executor(setup, executor)[0]))
    planned, numbers = saved.read(blank) or (_planned(setup, executor, bounds), blank)
    return planned, numbers, saved.writer(planned)


def _find(setup: Setup, planned: Plan, numbers: Numbers, ranks: Ranks, keep: Keep, shown: Progress) -> bool:
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
        run_passes(setup, planned, numbers, lambda n: not ranks.divided or rank_of[n] == ranks.rank, kept, inside)

    interrupted, said = ranks.work(run, lambda: packed(numbers), shown.more)
    if interrupted and numbers.done.any():
        keep(numbers)
    if said:
        merge(numbers, said, [batch.examples for batch in setup.batches])
    if interrupted and not numbers.done.any():
        raise KeyboardInterrupt
    return interrupted


def plan(
    model: HookedModel,
    tokens: Prompts,
    intervention: Intervention | Sequence[Intervention] | None = None,
    at: str | Site | Sequence[str | Site] | None = None,
    over: str | Sequence[str] | Sequence[CellChoice] = ("layer",),
    metric: object = None,
    layers: Any = None,
    positions: Any = None,
    heads: Any = None,
    neurons: Any = None,
    alphas: Any = None,
    executor: str = "auto",
    memory: int | None = None,
) -> Plan:
    """What a sweep would run and what that costs, without running it. The arguments are those of `sweep`.

    Raises:
        PatchError: As `sweep`.
    """
    require_hooked("model", model)
    bounds = bounds_of(memory)

    def plan_of(metrics: Any) -> Plan:
        setup = set_up(model, tokens, intervention, at, over, metrics, layers, positions, heads, neurons, alphas)
        return _planned(setup, executor, bounds)

    if not both_kinds(metric):
        return plan_of(metric)
    _, rules, others = sorted_out(model, metric)
    planned, written = plan_of(others), plan_of(rules)
    return replace(planned, written=written.token_layers + written.written)


def _planned(setup: Setup, wanted: str, bounds: Bounds) -> Plan:
    executor, why = _executor(setup, wanted)
    groups = [Group(batch.length, batch.tokens.shape[0]) for batch in setup.batches]
    layers = len(setup.model.layout.blocks)
    bounds = replace(bounds, rows=1) if setup.speaks else bounds
    planned = make_plan(setup.cells, groups, layers, executor, bounds, footprint(setup), why)
    least = [[replace(cell, start=cell.changed) for cell in own] for own in setup.cells]
    planned = replace(planned, minimum=minimum_of(least, groups, layers))
    return replace(planned, written=most_written(planned, setup.metrics)) if setup.speaks else planned


def _executor(setup: Setup, wanted: str) -> tuple[Executor, str]:
    """The executor, and why no cheaper one could be taken. What is written begins with a run through all blocks."""
    cells = [cell for own in setup.cells for cell in own]
    found, why = chosen_executor(wanted, setup.model.layout, cells)
    return ("rows" if found == "grow" else found, "") if setup.speaks else (found, why)
