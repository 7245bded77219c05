"""`attribute`: what a sweep would return, to first order, from one forward and one backward pass."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import mlx.core as mx

from mlx_patch.attribution._choice import method_of, refuse_standing
from mlx_patch.attribution._confirmation import Confirmation, confirmed, refuse_draws
from mlx_patch.attribution._estimates import estimate_cells
from mlx_patch.errors import KindError, listed
from mlx_patch.execution import described_experiment, labelled
from mlx_patch.execution.plan import bounds_of
from mlx_patch.execution.progress import ProgressChoice
from mlx_patch.interventions import Edit, Intervention
from mlx_patch.metrics import as_metric
from mlx_patch.model import HookedModel, as_edits, require_hooked
from mlx_patch.results import Estimate
from mlx_patch.sites import Site
from mlx_patch.sweeps import OverChoice, Variation, choices_of, make_experiment
from mlx_patch.tokens import Prompts


def attribute(
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
    features: Any = None,
    edits: Iterable[Edit] = (),
    method: str = "gradient",
    steps: int | None = None,
    graddrop: bool = False,
    confirm: int = 0,
    sample: int = 0,
    seed: int = 0,
    executor: str = "auto",
    progress: ProgressChoice = None,
    memory: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    group: mx.distributed.Group | None = None,
) -> Estimate:
    """Estimate what `sweep` would return for the same arguments: one forward and one backward pass for all cells.

    A cell's estimate is the baseline plus the gradient of the metric times what the cell's edits change, summed over
    the places that they edit: the derivative at 0 of the same cell with its change scaled from 0 to 1. So the tokens
    are those that are run, and the source is the source, as in `sweep`. An estimate is a shortlist; a sweep is the
    proof. `confirm` sweeps the strongest cells, and says how far the estimates were off.

    Args:
        model: The model.
        tokens: As of `sweep`: the prompts that are run.
        intervention: As of `sweep`; any one, since its change of an activation is all that is needed.
        at: As of `sweep`.
        over: As of `sweep`: axes, or a list of cells.
        metric: A metric or a list of them, each with a gradient. Several cost a backward pass each.
        layers: As of `sweep`.
        positions: As of `sweep`.
        heads: As of `sweep`.
        neurons: As of `sweep`.
        alphas: As of `sweep`.
        seeds: As of `sweep`. With standing edits that draw, `confirm` and `sample` are refused.
        features: As of `sweep`.
        edits: Standing edits, as of `sweep`: gradients are those of the run that has them. Not of "integrated".
        method: "gradient" is the gradient of the unpatched run. "atp*" is the same, but edits of `q`, `k`, `rot_q` and
            `rot_k` go through the exact softmax: it costs a forward pass more, and runs of attention alone.
            "integrated" sums increments along the way from the prompts' embeddings to those of the prompts of a
            `Replace(cache)`: it costs a pass a step, and is complete.
        steps: Of "integrated"; None takes 8 to 64, until the residual is below 1 %.
        graddrop: Of "gradient" and "atp*": estimate once a layer, each time without the gradient through what that
            layer adds to the stream, and sum up the sizes. It costs a method's passes once a layer, and finds effects
            that cancel. Effects are then sizes, without a sign: `Estimate.absolute`.
        confirm: How many of the cells with the strongest estimates are swept exactly; of several metrics the first
            counts.
        sample: How many of the others, drawn at random, are swept exactly: to see what the shortlist may have missed.
        seed: Of the draw.
        executor: As of `sweep`, for the cells that are swept; so are the following ones.
        progress: As of `sweep`.
        memory: Bytes that gradients, and passes of the sweep, may take beside the weights; None is half of what the
            device has left, where it says. Gradients that would take more are taken in groups of layers: that costs up
            to one forward pass more, and `provenance["layer_groups"]` says how many there were.
        checkpoint: As of `sweep`.
        group: As of `sweep`.
    Returns:
        The estimates, with the exact numbers where cells were confirmed: see `Estimate.exact` and
        `Estimate.agreement`.
    Raises:
        PatchError: As `sweep`, before anything is run.
        KindError: A metric has no gradient that means anything: a rank, or one that lets the model write.
        MissingSiteError: "atp*" is to go through an attention that has no `pattern`.
        ArchitectureError: The model cannot be differentiated, or has one layer and `graddrop` is True.
        ValueRefusedError: `confirm` or `sample` is below 0.
    Source:
        Nanda 2023, "Attribution patching"; Syed et al. 2023, https://arxiv.org/abs/2310.10348; Kramár et al. 2024,
        https://arxiv.org/abs/2403.00745.
    """
    start_time = perf_counter()
    require_hooked("model", model)
    chosen_method = method_of(method, steps, graddrop)
    standing = as_edits(edits)
    refuse_standing(chosen_method, standing)
    confirmation = Confirmation(confirm, sample, seed)
    _refuse_without_gradient(metric)
    variation = Variation(at, over, choices_of(layers, positions, heads, neurons, alphas, seeds, None, features))
    experiment = make_experiment(model, tokens, intervention, variation, metric, standing)
    refuse_draws(confirmation, experiment)
    numbers, notes = estimate_cells(experiment, chosen_method, bounds_of(memory).memory)
    estimate = Estimate(
        **labelled(experiment, numbers, to_first_order=True),
        provenance={**described_experiment(experiment), "method": method, "graddrop": graddrop, **notes},
    )
    if confirmation.is_wanted:
        estimate = confirmed(estimate, experiment, confirmation, executor, progress, memory, checkpoint, group)
    return replace(estimate, seconds=perf_counter() - start_time)


def _refuse_without_gradient(metric: object) -> None:
    """Refuse metrics whose gradient means nothing.

    Raises:
        KindError: There is one.
    """
    metrics = [metric]
    if isinstance(metric, list | tuple):
        metrics = list(metric)
    refused = [member.name for member in map(as_metric, metrics) if not member.differentiable]
    if refused:
        raise KindError(
            f"`metric` must have a gradient to attribute to. Got {listed(refused)}, whose gradient is 0 or means "
            "nothing. Use LogitDiff or LogProb, or `sweep`, which needs none."
        )
