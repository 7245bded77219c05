"""`prune` and `minimality`: what single edges of a circuit do, each by a run that begins at its reader."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.circuits._circuit import Circuit
from mlx_patch.circuits._circuit_run import CircuitState, metric_and_states, metric_of_circuit
from mlx_patch.circuits._graph import Graph
from mlx_patch.circuits._run import refuse_other_graph, runs_of_circuits
from mlx_patch.circuits._two_runs import SourceValues
from mlx_patch.model import HookedModel
from mlx_patch.tokens import Prompts


@final
@dataclass(frozen=True, eq=False, repr=False)
class Pruning:
    """What `prune` leaves of a circuit.

    Attributes:
        circuit: What is left.
        metric: The metric of what is left. Shape `(example,)`.
        host: The metric with all edges of the graph. Shape `(example,)`.
        threshold: Below which an edge was removed, in the metric's unit.
        n_runs: How many circuits were run.
        n_blocks: How many blocks these runs had together: a run begins at the block of the edge's reader.
    """

    circuit: Circuit
    metric: np.ndarray
    host: np.ndarray
    threshold: float
    n_runs: int
    n_blocks: int

    @override
    def __repr__(self) -> str:
        cost = f"{self.n_runs} runs of {self.n_blocks} blocks together"
        return f"Pruning({self.circuit!r}, threshold {self.threshold:g}, {cost})"


def prune(
    model: HookedModel, tokens: Prompts, cache: SourceValues, metric: object, circuit: Circuit, threshold: float
) -> Pruning:
    """Remove each edge of a circuit without which the metric stays as near to the host's.

    The distance of a circuit is the mean over examples of `|metric - metric of the host|`. Edges are tried from the
    logits back: readers in reverse, and for each reader its writers in reverse. An edge is removed if the distance
    grows by less than the threshold. The next edge is tried without it. An edge into what no longer writes to any
    reader is removed without a run, since it changes nothing.

    Costs two runs, and for each edge that is tried one that begins at the block of its reader: what is before it does
    not change. For that, the activations of one run are kept, as wide as the stream for each head.

    Args:
        model: As of `run`.
        tokens: The host.
        cache: The source, as of `run`.
        metric: One metric; it needs no gradient.
        circuit: Where to begin: `edges.top(500)`, or `Circuit(graph, graph.has_edge)` for all edges.
        threshold: In the metric's unit. At 0, only edges that do harm are removed.
    Raises:
        PatchError: As `run`.
        KindError: Several metrics, or `threshold` is no number.
        ValueRefusedError: It is below 0, or not finite.
    Source:
        ACDC: Conmy et al. 2023, https://arxiv.org/abs/2304.14997, algorithm 1, with the distance of a metric where the
        paper has the KL divergence.
    """
    _refuse_threshold(threshold)
    runs = runs_of_circuits(model, tokens, cache, metric)
    graph = runs.graph
    refuse_other_graph(circuit, graph)
    host = metric_of_circuit(runs, Circuit(graph, graph.has_edge))
    value, states = metric_and_states(runs, circuit)
    remaining, n_runs, n_blocks = circuit, 2, 2 * len(graph.blocks)
    for place in _from_logits(circuit):
        candidate = _without(remaining, place)
        if not _is_read(remaining, place[1]):
            remaining = candidate
            continue
        start = _start_of(states, place[1])
        changed = metric_of_circuit(runs, candidate, start)
        n_runs += 1
        n_blocks += len(graph.blocks) - start.block
        if _distance(changed, host) - _distance(value, host) < threshold:
            remaining, value = candidate, changed
    return Pruning(remaining, value, host, threshold, n_runs, n_blocks)


@final
@dataclass(frozen=True, eq=False, repr=False)
class Minimality:
    """What the metric of a circuit loses with each of its edges.

    Attributes:
        circuit: The circuit.
        metric: Its metric. Shape `(example,)`.
        without: The metric without each edge, in the order of `circuit.edges`. Shape `(edge, example)`.
        host: The metric with all edges of the graph. Shape `(example,)`.
        source: The metric with no edge. Shape `(example,)`.
    """

    circuit: Circuit
    metric: np.ndarray
    without: np.ndarray
    host: np.ndarray
    source: np.ndarray

    @property
    def drops(self) -> np.ndarray:
        """Faithfulness of the circuit minus that without each edge, a ratio of means. Shape `(edge,)`."""
        gap = self.host.mean(dtype=np.float64) - self.source.mean(dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            return (self.metric.mean(dtype=np.float64) - self.without.mean(axis=-1, dtype=np.float64)) / gap

    @override
    def __repr__(self) -> str:
        return f"Minimality({self.circuit!r}, smallest drop {np.abs(self.drops).min(initial=np.inf):.3g})"


def minimality(
    model: HookedModel, tokens: Prompts, cache: SourceValues, metric: object, circuit: Circuit
) -> Minimality:
    """What the metric of a circuit loses with each of its edges.

    In a minimal circuit, no edge can be left out without a loss. Costs three runs, and for each edge one that begins at
    the block of its reader.

    Args:
        model: As of `run`.
        tokens: The host.
        cache: The source, as of `run`.
        metric: One metric; it needs no gradient.
        circuit: The circuit.
    Raises:
        PatchError: As `run`.
        KindError: Several metrics.
    Source:
        Wang et al. 2022, https://arxiv.org/abs/2211.00593, section 4.
    """
    runs = runs_of_circuits(model, tokens, cache, metric)
    refuse_other_graph(circuit, runs.graph)
    every_edge = Circuit(runs.graph, runs.graph.has_edge)
    value, states = metric_and_states(runs, circuit)
    without = [
        metric_of_circuit(runs, _without(circuit, place), _start_of(states, place[1])) for place in _places(circuit)
    ]
    return Minimality(
        circuit=circuit,
        metric=value,
        without=np.array(without, np.float32).reshape(-1, *value.shape),
        host=metric_of_circuit(runs, every_edge),
        source=metric_of_circuit(runs, every_edge.complement),
    )


def _refuse_threshold(threshold: object) -> None:
    """Refuse what is no threshold.

    Raises:
        KindError: It is no number.
        ValueRefusedError: It is below 0, or not finite.
    """
    arguments.number("threshold", threshold, at_least=0, remedy="Give it in the metric's unit, 0.01 say.")


def _start_of(states: Sequence[CircuitState], reader: int) -> CircuitState:
    """The last state before a reader reads."""
    return next(state for state in reversed(states) if state.first_reader <= reader)


def _places(circuit: Circuit) -> list[tuple[int, int]]:
    """The indices of writer and reader of each edge, in the order of `circuit.edges`."""
    return [(int(writer), int(reader)) for writer, reader in np.argwhere(circuit.has_edge)]


def _from_logits(circuit: Circuit) -> Iterator[tuple[int, int]]:
    """The same from the logits back: readers in reverse, and for each reader its writers in reverse."""
    yield from sorted(_places(circuit), key=lambda place: (-place[1], -place[0]))


def _without(circuit: Circuit, place: tuple[int, int]) -> Circuit:
    has_edge = circuit.has_edge.copy()
    has_edge[place] = False
    return Circuit(circuit.graph, has_edge)


def _is_read(circuit: Circuit, reader: int) -> bool:
    """Whether what a reader computes reaches another one, or is the logits."""
    writers = _writers_of(circuit.graph, reader)
    return not writers or bool(circuit.has_edge[writers].any())


def _writers_of(graph: Graph, reader: int) -> list[int]:
    """The writers that compute what they write from a reader; none of the logits."""
    return [writer for writer, readers in enumerate(graph.readers_of) if reader in readers]


def _distance(values: np.ndarray, host: np.ndarray) -> float:
    return float(np.abs(values - host).mean(dtype=np.float64))
