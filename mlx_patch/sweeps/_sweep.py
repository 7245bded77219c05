"""`sweep`: many patched runs, at the cost of few. `plan`: what that would be."""

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_patch.architectures import refuse_parts
from mlx_patch.interventions import Intervention
from mlx_patch.model import HookedModel
from mlx_patch.provenance import versions
from mlx_patch.sites import Site
from mlx_patch.sweeps._cells import places_of
from mlx_patch.sweeps._executors import chosen_executor
from mlx_patch.sweeps._memory import device_budget, footprint
from mlx_patch.sweeps._messages import described, merge, packed
from mlx_patch.sweeps._plan import Bounds, Group, Plan, make_plan
from mlx_patch.sweeps._progress import Progress, ProgressChoice
from mlx_patch.sweeps._prompts import Prompts
from mlx_patch.sweeps._ranks import Ranks, ranks_of
from mlx_patch.sweeps._result import SweepResult
from mlx_patch.sweeps._run import Numbers, no_numbers, run_passes
from mlx_patch.sweeps._setup import CellChoice, Setup, set_up
from mlx_patch.sweeps._shares import shares


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
        metric: A metric or a list of them: values, functions of logits, or registered names.
        layers: Which layers; None is all that have the site. A group of ints is patched together: see `windows`,
            `up_to` and `onwards`. Where `over` does not have the axis, the choice holds in every cell.
        positions: Which positions, absolute or from the end; None is all. Groups as for layers.
        heads: Which heads. Groups as for layers.
        neurons: Which entries of the site's last axis. Groups as for layers.
        alphas: How far to go, where `over` has "alpha".
        executor: "auto", or "grow", "rows" or "reference", one full forward pass a cell.
        progress: A function of (cells done, cells in all); True or False for a bar or none; None for a bar on a
            terminal.
        memory: Bytes that a pass may take beside the weights; None is half of what the device has left, where it says.
        group: `mx.distributed.init()` under `mlx.launch`: its ranks, which all call this with the same arguments,
            divide the passes, and each returns the whole result. None runs all passes here.
    Returns:
        The numbers of every cell, with axes and coordinates. Ctrl-C returns what is done, with NaN for the rest.
    Raises:
        PatchError: Whatever cannot be run is refused before the first pass, with the reason.
        RankError: Another rank failed, is gone, or runs another sweep.
    Source:
        Vig et al. 2020, https://arxiv.org/abs/2004.12265, section 3; Meng et al. 2022, https://arxiv.org/abs/2202.05262,
        section 2; Heimersheim and Nanda 2024, https://arxiv.org/abs/2404.15255, for what to measure.
    """
    began = perf_counter()
    ranks = ranks_of(group, model.layout)
    with ranks.together():
        setup = set_up(
            model, tokens, intervention, at, over, metric, layers, positions, heads, neurons, alphas
        )
        edits = (edit for own in setup.cells for cell in own for edit in cell.edits)
        sites = dict.fromkeys(site for edit in edits for site in places_of(model.layout, edit))
        refuse_parts(model.layout, map(model.layout.place, sites))
        budget = device_budget() if memory is None else memory
    budget = ranks.least(budget)
    with ranks.together():
        planned = _planned(setup, executor, budget)
        shown = Progress(progress if ranks.rank == 0 or callable(progress) else False, planned.n_cells)
    ranks.refuse_others(described(setup, planned))
    with shown:
        numbers = _found(setup, planned, ranks, shown.more)
    return result_of(setup, planned, numbers, perf_counter() - began)


def _found(setup: Setup, planned: Plan, ranks: Ranks, more: Callable[[int], None]) -> Numbers:
    """What all passes find, here and on other ranks; after Ctrl-C, what they have found, if they have."""
    numbers = no_numbers(setup)
    rank_of = shares(planned, ranks.size if ranks.divided else 1)

    def run(finished: Callable[[int], None]) -> None:
        run_passes(setup, planned, numbers, lambda n: not ranks.divided or rank_of[n] == ranks.rank, finished)

    interrupted, said = ranks.work(run, lambda: packed(numbers), more)
    if said:
        merge(numbers, said, [batch.examples for batch in setup.batches])
    if interrupted and not numbers.done.any():
        raise KeyboardInterrupt
    return numbers


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
    setup = set_up(
        model, tokens, intervention, at, over, metric, layers, positions, heads, neurons, alphas
    )
    return _planned(setup, executor, device_budget() if memory is None else memory)


def _planned(setup: Setup, wanted: str, memory: int | None) -> Plan:
    layout = setup.model.layout
    executor, why = chosen_executor(wanted, layout, [cell for own in setup.cells for cell in own])
    groups = [Group(batch.length, batch.tokens.shape[0]) for batch in setup.batches]
    bounds = Bounds(memory=memory)
    return make_plan(setup.cells, groups, len(layout.blocks), executor, bounds, footprint(setup), why)


def result_of(setup: Setup, planned: Plan, numbers: Numbers, seconds: float) -> SweepResult:
    """The numbers of a sweep with their axes."""
    several = len(setup.metrics) > 1
    sizes = [len(coords) for coords in setup.coords.values()]
    coords: dict[str, tuple] = dict(setup.coords)
    if several:
        coords["metric"] = tuple(metric.name for metric in setup.metrics)
    coords["example"] = tuple(range(setup.n_examples))
    if "pos" in coords and (tokens := _token_strings(setup, coords["pos"])):
        coords["token"] = tokens
    kept = (slice(None),) if several else (0,)
    values = numbers.values[(slice(None), *kept)].reshape(*sizes, *numbers.values.shape[1 + (not several) :])
    axes = tuple(name for name in coords if name != "token")
    return SweepResult(
        values=values, axes=axes, coords=coords, baseline=numbers.baseline[kept],
        provenance=_provenance(setup, planned, numbers), plan=planned, seconds=seconds,
    )


def _provenance(setup: Setup, planned: Plan, numbers: Numbers) -> Mapping[str, Any]:
    return {
        "versions": versions(),
        "model": setup.model.identity,
        "tokens": _token_ids(setup),
        "metrics": [metric.name for metric in setup.metrics],
        **setup.said,
        "executor": planned.executor,
        "fell_back": planned.why,
        "token_layers": numbers.token_layers,
    }


def _token_ids(setup: Setup) -> list[list[int]]:
    rows: dict[int, list[int]] = {}
    for batch in setup.batches:
        rows.update(zip(batch.examples, np.array(batch.tokens).tolist(), strict=True))
    return [rows[example] for example in sorted(rows)]


def _token_strings(setup: Setup, positions: Sequence[Any]) -> tuple[str, ...]:
    """What stands at each position, where all prompts have the same there, and somebody can say it."""
    tokenizer = setup.model.tokenizer
    if tokenizer is None or len(setup.batches) > 1:
        return ()
    rows = np.array(setup.batches[0].tokens)
    said = []
    for pos in positions:
        columns = [np.unique(rows[:, p]) for p in (pos if isinstance(pos, tuple) else (pos,))]
        said.append("".join(tokenizer.decode([int(own[0])]) if len(own) == 1 else "*" for own in columns))
    return tuple(said)
