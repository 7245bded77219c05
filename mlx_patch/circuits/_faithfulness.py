"""`faithfulness`: how much of the metric's difference circuits of growing size keep."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from mlx_patch.cache import ActivationCache
from mlx_patch.circuits._circuit import Circuit
from mlx_patch.circuits._circuit_run import CircuitRun
from mlx_patch.circuits._curve import SHARES, FaithfulnessCurve
from mlx_patch.circuits._edge_scores import EdgeScores
from mlx_patch.circuits._run import refuse_inexact, refuse_other_graph
from mlx_patch.circuits._two_runs import TwoRuns, two_runs
from mlx_patch.errors import KindError, ValueRefusedError
from mlx_patch.metrics import as_metric
from mlx_patch.model import HookedModel, require_hooked
from mlx_patch.tokens import Prompts


def faithfulness(
    model: HookedModel,
    tokens: Prompts,
    cache: ActivationCache,
    metric: object,
    edges: EdgeScores,
    sizes: Sequence[int] | None = None,
) -> FaithfulnessCurve:
    """The share of the metric's difference between source and host that the best edges keep, by their number.

    For each size two circuits run: of the edges with the highest signed scores, and of those with the highest absolute
    ones. All other edges carry the source's values.

    Args:
        model: As of `run`.
        tokens: The host.
        cache: The source.
        metric: One metric; it needs no gradient.
        edges: The scores that rank the edges.
        sizes: Numbers of edges, in ascending order; None is the shares .001 .002 .005 .01 .02 .05 .1 .2 .5 and 1.
    Returns:
        The curve, with the metric of every circuit and example.
    Raises:
        PatchError: As `run`.
        KindError: Several metrics, or a size is no whole number.
        ValueRefusedError: Sizes are not in ascending order, or there are not so many edges.
    Source:
        Mueller et al. 2025, https://arxiv.org/abs/2504.13151, section 3.
    """
    require_hooked("model", model)
    if isinstance(metric, list | tuple):
        raise KindError(f"`metric` must be one metric. Got {len(metric)}. Take a curve of each by itself.")
    if not isinstance(edges, EdgeScores):
        raise KindError(f"`edges` must be scores. Got {type(edges).__name__}. Make them with `mp.circuits.edges`.")
    counts, shares = _counts(edges, sizes)
    refuse_inexact(model.layout)
    runs = two_runs(model, tokens, cache, as_metric(metric))
    graph = runs.graph
    every_edge = Circuit(graph, graph.has_edge)
    refuse_other_graph(edges.top(0), graph)
    signed = [_metric_of(runs, edges.top(count, absolute=False)) for count in counts]
    absolute = [_metric_of(runs, edges.top(count)) for count in counts]
    return FaithfulnessCurve(
        sizes=counts,
        shares=shares,
        signed=np.stack(signed),
        absolute=np.stack(absolute),
        host=_metric_of(runs, every_edge),
        source=_metric_of(runs, every_edge.complement),
    )


def _metric_of(runs: TwoRuns, circuit: Circuit) -> np.ndarray:
    """The metric of a circuit. Shape `(example,)`."""
    prompt_run = runs.host.prompt_run
    logits = CircuitRun(runs, circuit).logits(prompt_run)
    values = prompt_run.readout.measure(logits, prompt_run.length)[0]
    return np.array(values.astype(mx.float32))


def _counts(edges: EdgeScores, sizes: Sequence[int] | None) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The numbers of edges, and the shares of all edges that they stand for.

    Raises:
        KindError: A size is no whole number.
        ValueRefusedError: Sizes are not in ascending order, or not there.
    """
    n_edges = edges.graph.n_edges
    if sizes is None:
        return tuple(round(share * n_edges) for share in SHARES), SHARES
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int):
            raise KindError(f"`sizes` must be whole numbers. Got {size!r}. Give numbers of edges.")
    in_order = sorted(set(sizes)) == list(sizes)
    if not sizes or not in_order or sizes[0] < 0 or sizes[-1] > n_edges:
        raise ValueRefusedError(
            f"`sizes` must ascend, in 0 to {n_edges}, the number of edges. Got {list(sizes)}. Sort them."
        )
    return tuple(sizes), tuple(size / n_edges for size in sizes)
