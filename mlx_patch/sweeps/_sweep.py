"""`sweep`: many patched runs at the cost of few. `plan`: its passes and cost, without running."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, cast

import mlx.core as mx

from mlx_patch.execution import plan_experiment, run_experiment
from mlx_patch.execution.plan import Plan, bounds_of
from mlx_patch.execution.progress import ProgressChoice
from mlx_patch.interventions import Edit, Intervention
from mlx_patch.metrics import as_metric
from mlx_patch.model import HookedModel, as_edits, require_hooked
from mlx_patch.results import SweepResult
from mlx_patch.sites import Site
from mlx_patch.sweeps._by_measurement import check_kinds, kinds_of, plan_kinds, refuse_with_several, sweep_kinds
from mlx_patch.sweeps._experiment import make_experiment
from mlx_patch.sweeps._variation import OverChoice, Variation, choices_of
from mlx_patch.tokens import Prompts


def sweep(
    model: HookedModel,
    tokens: Prompts,
    intervention: Intervention | Sequence[Intervention] | None = None,
    at: str | Site | Sequence[str | Site] | None = None,
    over: OverChoice = ("layer",),
    metric: object = None,
    layers: Any = None,
    positions: Any = None,
    heads: Any = None,
    neurons: Any = None,
    alphas: Any = None,
    seeds: Any = None,
    via: Any = None,
    features: Any = None,
    freeze: str = "all",
    edits: Iterable[Edit] = (),
    executor: str = "auto",
    progress: ProgressChoice = None,
    memory: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    group: mx.distributed.Group | None = None,
) -> SweepResult:
    """Patch many places, one after another, and measure each time: exact, at minimum cost.

    A cell is one patched run; `over` says what varies from cell to cell. Cells share what they have in common: what
    lies before the first patched position, and below the first patched layer, is computed once.

    Args:
        model: The model.
        tokens: Token ids, shape `(batch, pos)` or `(pos,)`; a text; chat messages; or a list of prompts, which run in
            groups of equal length. Each prompt is an example.
        intervention: What to do; or a list of them, one a prompt, where each prompt has its own source.
        at: A site, or several where `over` has "site".
        over: Axes, of "site", "layer", "pos", "head", "neuron", "alpha" (of an `Interpolate`), "seed" (of what draws),
            "via" (receivers of paths) and "feature" (of an `mp.Features`), in the order in which the result has them;
            or instances of a `SweepAxis`.
            Or a list of cells: edits, paths, lists of them, or dicts for `Intervention.at`.
        metric: A metric or a list of them: values, functions of logits, or registered names. Of answers of several
            tokens each is appended to the prompt in a run of its own; edits act in the prompt, and see it alone.
        layers: Which layers, numbers or a slice; None is all that have the site. A group of ints is patched together:
            see `windows`, `up_to` and `onwards`. Where `over` does not have the axis, the choice holds in every cell.
        positions: Which positions, absolute or from the end; a slice, where all prompts are of one length; selectors of
            `mp.pos`; None is all. Groups as for layers.
        heads: Which heads. Groups as for layers.
        neurons: Which entries of the site's last axis. Groups as for layers.
        alphas: How far to go, where `over` has "alpha".
        seeds: Of all that draws random numbers, where `over` has "seed": the cells' interventions and standing edits.
        via: Receivers, `mp.Receiver`: cells are paths, of which only what reaches the receivers counts. Several receive
            together, or one after the other where `over` has "via".
        features: Features of an `mp.Features`, where `over` has "feature". Groups as for layers. None is its own.
        freeze: What is frozen between sender and receiver: "all" other writers, MLPs too; or "attention": MLPs are
            recomputed.
        edits: Standing edits: every run has them, the unpatched one too. In a cell they act before its own edits. The
            baseline is the run with these alone; over seeds, the mean of one run a seed. Causal tracing has its noise
            here.
        executor: "auto", or "grow", "rows" or "reference", one full forward pass per cell.
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
        section 2; Heimersheim and Nanda 2024, https://arxiv.org/abs/2404.15255, for what to measure; Goldowsky-Dill et
        al. 2023, https://arxiv.org/abs/2304.05969, and Wang et al. 2022, https://arxiv.org/abs/2211.00593, for paths.
    """
    require_hooked("model", model)
    variation = Variation(at, over, choices_of(layers, positions, heads, neurons, alphas, seeds, via, features))
    standing = as_edits(edits)

    def sweep_of(metrics, show_progress=True):  # annotated, a checker of types would keep it, and all that it holds
        make = partial(make_experiment, model, tokens, intervention, variation, metrics, standing, freeze)
        progress_choice = progress if show_progress else False
        return run_experiment(make, executor, progress_choice, memory, checkpoint, group, model.layout)

    kinds = kinds_of(metric)
    if len(kinds) < 2:
        return sweep_of(metric)[0]
    refuse_with_several(kinds, checkpoint=checkpoint, group=group)
    check_kinds(model, kinds)
    names = [as_metric(member).name for member in cast("Sequence[object]", metric)]
    return sweep_kinds(kinds, names, sweep_of)


def plan(
    model: HookedModel,
    tokens: Prompts,
    intervention: Intervention | Sequence[Intervention] | None = None,
    at: str | Site | Sequence[str | Site] | None = None,
    over: OverChoice = ("layer",),
    metric: object = None,
    layers: Any = None,
    positions: Any = None,
    heads: Any = None,
    neurons: Any = None,
    alphas: Any = None,
    seeds: Any = None,
    via: Any = None,
    features: Any = None,
    freeze: str = "all",
    edits: Iterable[Edit] = (),
    executor: str = "auto",
    memory: int | None = None,
) -> Plan:
    """The passes of a sweep and their cost, without running it. The arguments are those of `sweep`.

    Raises:
        PatchError: As `sweep`.
    """
    require_hooked("model", model)
    bounds = bounds_of(memory)
    variation = Variation(at, over, choices_of(layers, positions, heads, neurons, alphas, seeds, via, features))
    standing = as_edits(edits)

    def plan_of(metrics):  # as above
        experiment = make_experiment(model, tokens, intervention, variation, metrics, standing, freeze)
        return plan_experiment(experiment, executor, bounds)

    kinds = kinds_of(metric)
    if len(kinds) < 2:
        return plan_of(metric)
    check_kinds(model, kinds)
    return plan_kinds(kinds, plan_of)
