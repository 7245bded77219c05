"""`edges`: the score of every edge of a model, from one forward and one backward pass and derivatives of its parts."""

import numpy as np

from mlx_patch import arguments
from mlx_patch.circuits._along_path import scores_along_path
from mlx_patch.circuits._blocks import refuse_stream, sites_of_writers
from mlx_patch.circuits._edge_scores import EdgeScores
from mlx_patch.circuits._scoring import Scoring
from mlx_patch.circuits._two_runs import SourceValues, two_runs
from mlx_patch.circuits._writing import writer_differences
from mlx_patch.errors import KindError, ValueRefusedError, shown
from mlx_patch.execution import described_experiment
from mlx_patch.interventions import Intervention
from mlx_patch.metrics import as_metric
from mlx_patch.model import HookedModel, require_hooked
from mlx_patch.sites import Site
from mlx_patch.tokens import Prompts

_METHODS = ("gradient", "integrated")


def edges(
    model: HookedModel,
    tokens: Prompts,
    cache: SourceValues,
    metric: object,
    method: str = "gradient",
    steps: int | None = None,
) -> EdgeScores:
    """Score the edges from everything that writes to the stream to everything that reads it later.

    The score of an edge is what its writer adds in the source's run but not in the host's, times the derivative of the
    metric by the stream as that reader alone reads it, before the reader's norm. It estimates how the metric of the
    host changes if this reader gets what this writer adds in the source. For each writer, the scores of all its edges
    sum to its node score: what `attribute` with `Replace(cache)` estimates for it.

    Args:
        model: The model. Its stream must be the plain sum of what is added to it.
        tokens: The prompts that are run, the host: of one length. A text, a chat, or token ids of shape `(batch, pos)`.
        cache: The source's activations at `writer_sites(model)`, from prompts of the same length. Or an intervention
            that makes them of the host's, such as `Ablate("zero")` or `Ablate("mean", cache)`.
        metric: One metric, with a gradient.
        method: "gradient" is the gradient of the host's run. "integrated" sums increments along the way from the
            host's embeddings to the source's. So the edges into the logits sum to the metric's difference, and so do
            those out of the embedding, but for `provenance["residual"]`. It costs as much as "gradient" a step.
        steps: Of "integrated"; None takes 8 to 64, until the residual is below 1 %.
    Returns:
        The scores, by position and example.
    Raises:
        PatchError: As `attribute`, before anything is run.
        KindError: `method` is "integrated", and `cache` an intervention.
        ArchitectureError: The stream is not a plain sum, or the model cannot be differentiated.
        MissingSiteError: The cache lacks what some writer adds.
        ShapeError: The prompts have different lengths.
    Source:
        Syed et al. 2023, https://arxiv.org/abs/2310.10348, section 3; Hanna et al. 2024,
        https://arxiv.org/abs/2403.17806, whose path "integrated" takes.
    """
    require_hooked("model", model)
    _refuse_method(method, steps)
    _refuse_metric(metric)
    refuse_stream(model.layout)
    if method == "integrated" and isinstance(cache, Intervention):
        raise KindError(
            f'`cache` must be an ActivationCache where method="integrated". Got {shown(cache)}. The way leads to the '
            'embeddings of a source; use method="gradient".'
        )
    runs = two_runs(model, tokens, cache, metric)
    described = {**described_experiment(runs.experiment), "method": method}
    if method == "integrated":
        scores = scores_along_path(runs, steps)
        notes = {"steps": scores.steps, "residual": scores.residual}
        return EdgeScores(runs.graph, scores.values, scores.baseline, {**described, **notes})
    scoring = Scoring(runs.host, runs.graph, writer_differences(runs.host, runs.source, runs.graph))
    gradient_run = scoring.go_back()
    baseline = np.array(gradient_run.values)[0]
    return EdgeScores(runs.graph, scoring.values, baseline, {**described, **gradient_run.notes})


def writer_sites(model: HookedModel) -> tuple[Site, ...]:
    """The sites that a cache needs for `edges`: `run_with_cache(source, sites=writer_sites(model))`.

    Raises:
        ArchitectureError: The model's stream is not a plain sum.
    """
    require_hooked("model", model)
    refuse_stream(model.layout)
    return sites_of_writers(model.layout)


def _refuse_method(method: str, steps: int | None) -> None:
    """Refuse what is no method of edges.

    Raises:
        UnknownNameError: There is no such method.
        KindError: `steps` is no whole number.
        ValueRefusedError: It is below 1, or there are none.
    """
    arguments.choice("method", method, _METHODS, "a way to score edges")
    if steps is None:
        return
    arguments.whole_number("steps", steps, 1, remedy="Leave it out to have them chosen.")
    if method == "gradient":
        raise ValueRefusedError(f"`steps` must be left out where method={method!r}. Got {steps}. It has none.")


def _refuse_metric(metric: object) -> None:
    """Refuse several metrics, and one without a gradient.

    Raises:
        KindError: It is so.
    """
    if isinstance(metric, list | tuple):
        raise KindError(f"`metric` must be one metric. Got {len(metric)}. Score edges for each by itself.")
    if not as_metric(metric).differentiable:
        raise KindError(
            f"`metric` must have a gradient to score edges. Got {as_metric(metric).name}, whose gradient is 0 or means "
            "nothing. Choose one of the logits, such as LogitDiff."
        )
