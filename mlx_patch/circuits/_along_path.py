"""Scores along the way from the host's embeddings to the source's, summed over increments.

Each step contributes what a writer adds more at its end than at its start, times the mean of the derivatives at both.
So each derivative meets half of the increment before it and half of the one behind it, and none has to be kept.
"""

from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from mlx_patch.attribution import putting
from mlx_patch.circuits._host_run import HostRun
from mlx_patch.circuits._scoring import Scoring
from mlx_patch.circuits._two_runs import TwoRuns
from mlx_patch.circuits._writing import writer_differences
from mlx_patch.interventions import Replace
from mlx_patch.model import run
from mlx_patch.sites import Site

_EMBED = Site("embed")
_FEWEST, _MOST = 8, 64
_TOLERANCE = 0.01
"""The residual, as a share of the metric's difference, at which no more steps are taken."""


@dataclass(frozen=True, eq=False)
class PathScores:
    """What the steps along a way add up to.

    Attributes:
        values: The scores. Shape `(writer, reader, pos, batch)`.
        baseline: The metric at the host's end. Shape `(batch,)`.
        residual: How far the edges into the logits, or out of the embedding, are from the metric's difference at most.
        difference: The largest difference of the metric between the two ends.
        steps: How many steps there were.
    """

    values: np.ndarray
    baseline: np.ndarray
    residual: float
    difference: float
    steps: int


def scores_along_path(runs: TwoRuns, steps: int | None) -> PathScores:
    """The scores after some steps; by default after 8 to 64, until the residual is below 1 %."""
    count = steps or _FEWEST
    while True:
        scores = _scores(runs, count)
        if steps is not None or count >= _MOST or scores.residual < _TOLERANCE * scores.difference:
            return scores
        count *= 2


def _scores(runs: TwoRuns, steps: int) -> PathScores:
    total = np.zeros(1, np.float32)
    metrics: list[np.ndarray] = []
    half_before = mx.zeros(1)
    host = _run_at(runs, 0.0)
    for number in range(steps + 1):
        weights, start = half_before, host
        if number < steps:
            host = _run_at(runs, (number + 1) / steps)
            half_before = writer_differences(start, host.activations, runs.graph) / 2
            weights = weights + half_before
        scoring = Scoring(start, runs.graph, weights)
        gradient_run = scoring.go_back()
        total = total + scoring.values
        metrics.append(np.array(gradient_run.values)[0])
    difference = metrics[-1] - metrics[0]
    return PathScores(total, metrics[0], _residual(total, difference), float(np.abs(difference).max()), steps)


def _residual(values: np.ndarray, difference: np.ndarray) -> float:
    into_logits = values[:, -1].sum(axis=(0, 1))
    out_of_embedding = values[0].sum(axis=(0, 1))
    return float(max(np.abs(summed - difference).max() for summed in (into_logits, out_of_embedding)))


def _run_at(runs: TwoRuns, share: float) -> HostRun:
    """The run on an embedding between the host's and the source's."""
    host = runs.host
    embedding = (1.0 - share) * host.activations[_EMBED] + share * runs.source[_EMBED]
    edits = [Replace(embedding).at("embed")]
    layout = host.prompt_run.layout
    activations = run(layout, host.prompt_run.tokens, edits, sites=tuple(host.activations), unembed=False).activations
    return HostRun(replace(host.prompt_run, actions=((_EMBED, putting(embedding)),)), activations)
