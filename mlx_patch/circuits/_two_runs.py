"""`TwoRuns`: the host's run, and what the source's has at each writer; what does not fit together is refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_patch.attribution import PromptRun
from mlx_patch.cache import ActivationCache
from mlx_patch.circuits._blocks import graph_of, reads_by_head, sites_of_streams, sites_of_writers
from mlx_patch.circuits._graph import Graph
from mlx_patch.circuits._host_run import HostRun
from mlx_patch.errors import KindError, ShapeError, listed, shown
from mlx_patch.execution import Experiment
from mlx_patch.execution.plan import bounds_of
from mlx_patch.interventions import Intervention, Replace, Span
from mlx_patch.model import HookedModel, run
from mlx_patch.sites import Site
from mlx_patch.sweeps import Variation, choices_of, make_experiment
from mlx_patch.tokens import Prompts, batches_of


@dataclass(frozen=True, eq=False)
class TwoRuns:
    """The host's run, and what the source's has at each writer.

    Attributes:
        experiment: The prompts and the metric, checked.
        host: The host's run.
        source: What the source has at the writers' sites, in the host's shapes.
        graph: The writers and readers.
    """

    experiment: Experiment
    host: HostRun
    source: Mapping[Site, mx.array]
    graph: Graph


SourceValues = ActivationCache | Intervention
"""What edges that are off carry: the values of a cache, or what an intervention makes of the host's, such as a mean."""


def two_runs(model: HookedModel, tokens: Prompts, cache: SourceValues, metric: object) -> TwoRuns:
    """Check everything, and run the host.

    Raises:
        PatchError: As `edges` says.
    """
    _refuse_lengths(model, tokens)
    sites = sites_of_writers(model.layout)
    if isinstance(cache, Intervention):
        intervention = cache
    else:
        intervention = Replace(cache)
    cells = [intervention.at(site.name, layer=site.layer) for site in sites]
    variation = Variation(None, cells, choices_of(None, None, None, None, None))
    experiment = make_experiment(model, tokens, None, variation, metric)
    _refuse_answers(experiment)
    host = _host_run(experiment)
    graph = graph_of(model.layout, host.activations)
    return TwoRuns(experiment, host, _source(experiment, host, sites), graph)


def _host_run(experiment: Experiment) -> HostRun:
    """The host's run, with the activations that edges need."""
    layout = experiment.model.layout
    [batch], [readout] = experiment.batches, experiment.readouts
    sites = [*sites_of_writers(layout), *sites_of_streams(layout)]
    for layer in range(len(layout.blocks)):
        if reads_by_head(layout, layer):
            sites.append(Site("k", layer))
    activations = run(layout, batch.tokens, sites=tuple(sites), unembed=False).activations
    prompt_run = PromptRun(layout, batch.tokens, readout, memory=bounds_of(None).memory)
    return HostRun(prompt_run, activations)


def _source(experiment: Experiment, host: HostRun, sites: Sequence[Site]) -> Mapping[Site, mx.array]:
    """What the source puts in at each writer's site."""
    length = host.prompt_run.length
    source = {}
    for site, cell in zip(sites, experiment.cells[0], strict=True):
        source[site] = host.activations[site]
        for edit in cell.edits:
            edited = edit.apply(source[site], site, Span(0, length, length))
            if edited is not None:
                source[site] = edited
    return source


def _refuse_lengths(model: HookedModel, tokens: Prompts) -> None:
    """Refuse prompts of several lengths.

    Raises:
        ShapeError: They are so.
    """
    batches = batches_of(tokens, model.tokenizer, model.d_vocab)
    if len(batches) > 1:
        lengths = listed(batch.length for batch in batches)
        raise ShapeError(
            f"`tokens` must be prompts of one length, whose positions stand for each other. Got lengths {lengths}. "
            "Score the edges of each length by itself."
        )


def _refuse_answers(experiment: Experiment) -> None:
    """Refuse answers that are runs of their own.

    Raises:
        KindError: The metric appends answers.
    """
    if experiment.answers is not None:
        raise KindError(
            "`metric` must read logits of the prompt alone to score edges. Got "
            f"{shown(experiment.requested.metrics[0])}, "
            "which appends an answer. Choose answers of one token."
        )
