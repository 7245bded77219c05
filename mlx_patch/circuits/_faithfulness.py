"""`faithfulness`: how much of the metric's difference circuits of growing size keep."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from mlx_patch import arguments
from mlx_patch.circuits._circuit import Circuit
from mlx_patch.circuits._circuit_run import metric_of_circuit
from mlx_patch.circuits._curve import SHARES, FaithfulnessCurve
from mlx_patch.circuits._edge_scores import EdgeScores
from mlx_patch.circuits._run import refuse_other_graph, runs_of_circuits
from mlx_patch.circuits._two_runs import SourceValues, TwoRuns
from mlx_patch.errors import KindError, ValueRefusedError
from mlx_patch.model import HookedModel
from mlx_patch.tokens import Prompts

_BY = ("edge", "node")


def faithfulness(
    model: HookedModel,
    tokens: Prompts,
    cache: SourceValues,
    metric: object,
    edges: EdgeScores,
    sizes: Sequence[int] | None = None,
    by: Literal["edge", "node"] = "edge",
    complements: bool = False,
    connected: bool = False,
) -> FaithfulnessCurve:
    """The share of the metric's difference between source and host that the best edges keep, by their number.

    For each size two circuits run: of the edges with the highest absolute scores, and of those whose signed scores move
    the metric furthest from the host's towards the source's. All other edges carry the source's values.

    Args:
        model: As of `run`.
        tokens: The host.
        cache: The source, as of `run`.
        metric: One metric; it needs no gradient.
        edges: The scores that rank the edges.
        sizes: Numbers of edges, in ascending order; None is the shares .001 .002 .005 .01 .02 .05 .1 .2 .5 and 1.
        by: "node" takes the best writers with all their edges; then sizes are numbers of writers.
        complements: Whether all edges but those with the highest absolute scores are run as well.
        connected: Whether circuits of edges grow from the logits, as of `EdgeScores.top`.
    Returns:
        The curve, with the metric of every circuit and example.
    Raises:
        PatchError: As `run`.
        KindError: Several metrics, or a size is no whole number.
        UnknownNameError: `by` is neither.
        ValueRefusedError: Sizes are not in ascending order, or there are not so many edges. Or nodes are `connected`.
    Source:
        Mueller et al. 2025, https://arxiv.org/abs/2504.13151, section 3; completeness: Wang et al. 2022,
        https://arxiv.org/abs/2211.00593, section 4.
    """
    _refuse_arguments(edges, by, connected)
    complements = arguments.flag("complements", complements)
    counts, shares = _counts(edges, sizes, by)
    runs = runs_of_circuits(model, tokens, cache, metric)
    refuse_other_graph(edges.top(0), runs.graph)
    every_edge = Circuit(runs.graph, runs.graph.has_edge)
    host, none = metric_of_circuit(runs, every_edge), metric_of_circuit(runs, every_edge.complement)
    absolute = [_best(edges, by, count, True, connected) for count in counts]
    complement = None
    if complements:
        complement = _metrics_of(runs, [circuit.complement for circuit in absolute])
    towards_source = edges
    if none.mean() < host.mean():
        towards_source = edges.negated
    return FaithfulnessCurve(
        sizes=counts,
        shares=shares,
        signed=_metrics_of(runs, [_best(towards_source, by, count, False, connected) for count in counts]),
        absolute=_metrics_of(runs, absolute),
        host=host,
        source=none,
        complement=complement,
    )


def _best(edges: EdgeScores, by: str, count: int, absolute: bool, connected: bool) -> Circuit:
    if by == "node":
        return edges.top_nodes(count, absolute)
    return edges.top(count, absolute, connected)


def _metrics_of(runs: TwoRuns, circuits: Sequence[Circuit]) -> np.ndarray:
    """The metric of some circuits. Shape `(circuit, example)`."""
    return np.stack([metric_of_circuit(runs, circuit) for circuit in circuits])


def _refuse_arguments(edges: object, by: object, connected: bool) -> None:
    """Refuse what are no scores, what is neither edges nor nodes, and nodes that should be connected.

    Raises:
        KindError: They are no scores.
        UnknownNameError: `by` is neither.
        ValueRefusedError: Nodes should be connected.
    """
    if not isinstance(edges, EdgeScores):
        raise KindError(f"`edges` must be scores. Got {type(edges).__name__}. Make them with `mp.circuits.edges`.")
    arguments.choice("by", by, _BY, "what a circuit is made of")
    arguments.flag("connected", connected)
    if by == "node" and connected:
        raise ValueRefusedError('`connected` must be False where by="node". Got True. Nodes have all their edges.')


def _counts(edges: EdgeScores, sizes: Sequence[int] | None, by: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The numbers of edges or nodes, and the shares of all of them that they stand for.

    Raises:
        KindError: A size is no whole number.
        ValueRefusedError: Sizes are not in ascending order, or not there.
    """
    n_all = edges.graph.n_edges
    if by == "node":
        n_all = edges.graph.n_nodes
    if sizes is None:
        return tuple(round(share * n_all) for share in SHARES), SHARES
    sizes = arguments.whole_numbers("sizes", sizes, "a list of whole numbers", remedy=f"Give numbers of {by}s.")
    in_order = sorted(set(sizes)) == list(sizes)
    if not sizes or not in_order or sizes[0] < 0 or sizes[-1] > n_all:
        raise ValueRefusedError(
            f"`sizes` must ascend, in 0 to {n_all}, the number of {by}s. Got {list(sizes)}. Sort them."
        )
    return tuple(sizes), tuple(size / n_all for size in sizes)
