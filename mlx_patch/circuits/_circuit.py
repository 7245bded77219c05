"""`Circuit`: some of the edges of a model."""

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar, final

import numpy as np
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.circuits._graph import Graph
from mlx_patch.errors import KindError, ShapeError, ValueRefusedError

_Place = TypeVar("_Place")


@final
@dataclass(frozen=True, eq=False, repr=False)
class Circuit:
    """Some of the edges of a model. `EdgeScores.top` makes one.

    Attributes:
        graph: All writers and readers.
        has_edge: Which edges are in it, read-only. Bool, shape `(writer, reader)`.
    Raises:
        KindError: `has_edge` is no numpy array of bool.
        ShapeError: It has another shape.
        ValueRefusedError: It has an edge that the graph does not have.
    """

    graph: Graph
    has_edge: np.ndarray

    def __post_init__(self) -> None:
        arguments.instance("graph", self.graph, Graph)
        mask = self.has_edge
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise KindError(
                f"`has_edge` must be a numpy array of bool. Got {type(mask).__name__}. Use `.astype(bool)`."
            )
        expected = self.graph.has_edge.shape
        if mask.shape != expected:
            raise ShapeError(
                f"`has_edge` must have the shape (writer, reader), {expected}. Got {mask.shape}. Copy the graph's."
            )
        if (mask & ~self.graph.has_edge).any():
            writer, reader = np.argwhere(mask & ~self.graph.has_edge)[0]
            name = self.graph.edge_name(writer, reader)
            raise ValueRefusedError(
                f"`has_edge` must have edges that lead forward. Got {name}. Leave out what `graph.has_edge` leaves out."
            )
        copy = mask.copy()
        copy.flags.writeable = False
        object.__setattr__(self, "has_edge", copy)

    @staticmethod
    def of_edges(graph: Graph, names: Iterable[str]) -> "Circuit":
        """The circuit of some edges by name, such as `a0.h1->a2.h3<q>`.

        Raises:
            UnknownNameError: The graph has no such edge.
        """
        arguments.instance("graph", graph, Graph)
        places = {graph.edge_name(*place): place for place in graph.places}
        has_edge = np.zeros(graph.has_edge.shape, bool)
        for name in arguments.entries("names", names, "a list of names"):
            has_edge[_named(name, places, "edge")] = True
        return Circuit(graph, has_edge)

    @staticmethod
    def of_nodes(graph: Graph, names: Iterable[str]) -> "Circuit":
        """The circuit of all edges out of some writers by name, such as `a0.h1` or `m2`.

        All that other writers add is the source's, whoever reads it.

        Raises:
            UnknownNameError: The graph has no such writer.
        """
        arguments.instance("graph", graph, Graph)
        places = {str(writer): index for index, writer in enumerate(graph.writers)}
        has_edge = np.zeros(graph.has_edge.shape, bool)
        for name in arguments.entries("names", names, "a list of names"):
            index = _named(name, places, "writer")
            has_edge[index] = graph.has_edge[index]
        return Circuit(graph, has_edge)

    @property
    def n_edges(self) -> int:
        """The number of its edges."""
        return int(np.count_nonzero(self.has_edge))

    @property
    def edges(self) -> tuple[str, ...]:
        """The names of its edges, such as `a0.h1->a2.h3<q>`, in the order of the writers."""
        return tuple(self.graph.edge_name(writer, reader) for writer, reader in np.argwhere(self.has_edge))

    @property
    def complement(self) -> "Circuit":
        """All other edges of the graph."""
        return Circuit(self.graph, self.graph.has_edge & ~self.has_edge)

    @override
    def __repr__(self) -> str:
        return f"Circuit({self.n_edges} of {self.graph.n_edges} edges)"


def _named(name: str, places: Mapping[str, _Place], kind: str) -> _Place:
    """Where what has a name is.

    Raises:
        UnknownNameError: Nothing has it.
    """
    return places[arguments.choice("names", name, places, f"of the graph's {kind}s")]


def grown_from_logits(graph: Graph, ranks: Mapping[tuple[int, int], float], count: int) -> np.ndarray:
    """The edges of a circuit that grows from the logits: each next edge is the best into what the circuit has.

    Args:
        graph: The writers and readers.
        ranks: Of each edge, by the indices of writer and reader; the lowest is best.
        count: How many edges.
    Returns:
        Bool, shape `(writer, reader)`; fewer edges than `count` where no more lead to the logits.
    """
    chosen = np.zeros(graph.has_edge.shape, bool)
    joined: set[int] = set()
    candidates: list[tuple[float, int, int]] = []

    def join(reader: int) -> None:
        if reader not in joined:
            joined.add(reader)
            for writer in range(graph.n_read[reader]):
                heapq.heappush(candidates, (ranks[writer, reader], writer, reader))

    join(len(graph.readers) - 1)
    for _ in range(count):
        if not candidates:
            break
        _, writer, reader = heapq.heappop(candidates)
        chosen[writer, reader] = True
        for next_reader in graph.readers_of[writer]:
            join(next_reader)
    return chosen
