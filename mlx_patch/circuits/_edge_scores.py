"""`EdgeScores`: the scores of all edges, by position and example; selections of them, tables and files."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.circuits._circuit import Circuit, grown_from_logits
from mlx_patch.circuits._drawing import network_of_circuit
from mlx_patch.circuits._graph import Graph
from mlx_patch.circuits._interchange import graph_file, read_graph_file
from mlx_patch.errors import ShapeError, ValueRefusedError
from mlx_patch.files import text_written, written_whole
from mlx_patch.plot import Network, html_fragment, html_page, html_table, network, network_svg
from mlx_patch.results import import_optional

if TYPE_CHECKING:
    import matplotlib.axes
    import pandas

_DRAWN = 50
"""How many edges a picture has."""

_STYLE = ".mlx-patch svg { background: #ffffff; max-width: 100%; }"
"""A picture is black on white, in dark mode too."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class EdgeScores:
    """The scores of all edges, as `edges` returns them.

    Attributes:
        graph: The writers and readers.
        values: Source minus host, in the metric's unit; NaN where there is no edge. Float32, read-only. Shape
            `(writer, reader, pos, example)`; scores that were read from a file have one position and one example.
        baseline: The metric of the host's run. Float32, read-only. Shape `(example,)`.
        provenance: Versions, model, tokens, metric and method.
    Raises:
        ShapeError: The arrays do not fit the graph.
    """

    graph: Graph
    values: np.ndarray
    baseline: np.ndarray
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        arguments.instance("graph", self.graph, Graph)
        arguments.mapping("provenance", self.provenance, "a mapping")
        for name in ("values", "baseline"):
            arguments.instance(name, getattr(self, name), np.ndarray)
            arguments.numeric(name, getattr(self, name))
        expected = self.graph.has_edge.shape
        if self.values.ndim != 4 or self.values.shape[:2] != expected:
            raise ShapeError(
                f"`values` must have the shape (writer, reader, pos, example), {expected} first. Got "
                f"{self.values.shape}. Give one number per edge, position and example."
            )
        if self.baseline.shape != self.values.shape[3:]:
            raise ShapeError(
                f"`baseline` must have one number per example, shape {self.values.shape[3:]}. Got "
                f"{self.baseline.shape}. Give the metric of the host's run."
            )
        for name in ("values", "baseline"):
            object.__setattr__(self, name, _read_only(getattr(self, name)))

    @property
    def negated(self) -> "EdgeScores":
        """The scores of the metric's negative, which are high where the host's value raises the metric.

        The benchmark MIB scores a loss, so its files have these.
        """
        return EdgeScores(self.graph, -self.values, -self.baseline, {**self.provenance, "negated": True})

    @property
    def by_example(self) -> np.ndarray:
        """The scores summed over positions; NaN where there is no edge. Shape `(writer, reader, example)`."""
        return self.values.sum(axis=2)

    def mean(self) -> np.ndarray:
        """The mean over examples of `by_example`; NaN where there is no edge. Shape `(writer, reader)`."""
        return self.by_example.mean(axis=-1)

    def node_scores(self) -> np.ndarray:
        """The scores of each writer's edges, summed: what `attribute` estimates for it. Shape `(writer, pos, example)`.

        The writers are `graph.writers`. A sum over `pos` is the score of the whole prompt.
        """
        has_edge = self.graph.has_edge[:, :, None, None]
        return self.values.sum(axis=1, where=has_edge)

    def top(self, n: int, absolute: bool = True, connected: bool = False) -> Circuit:
        """The `n` edges with the highest mean scores.

        Args:
            n: How many.
            absolute: Whether the size counts. Otherwise those with the highest signed scores, whose edges lower the
                metric in the host; take them of `negated` for those that raise it.
            connected: Whether the circuit grows from the logits: each next edge is the best one that leads into the
                logits or into a writer that is in the circuit. So each edge is on a way to the logits.
        Raises:
            KindError: `n` is no whole number.
            ValueRefusedError: There are not so many edges.
        """
        n = _checked_number(n, self.graph.n_edges, "edges")
        absolute, connected = arguments.flag("absolute", absolute), arguments.flag("connected", connected)
        places = np.argwhere(self.graph.has_edge)
        scores = self.mean()[self.graph.has_edge]
        if absolute:
            scores = np.abs(scores)
        order = np.argsort(-scores, kind="stable")
        if connected:
            ranks = {(int(places[index, 0]), int(places[index, 1])): rank for rank, index in enumerate(order)}
            return Circuit(self.graph, grown_from_logits(self.graph, ranks, n))
        chosen = np.zeros(self.graph.has_edge.shape, bool)
        chosen[tuple(places[order[:n]].T)] = True
        return Circuit(self.graph, chosen)

    def top_nodes(self, n: int, absolute: bool = True) -> Circuit:
        """All edges out of the `n` writers with the highest node scores, means over examples.

        Args:
            n: How many writers.
            absolute: Whether the size counts. Otherwise those with the highest signed scores.
        Raises:
            KindError: `n` is no whole number.
            ValueRefusedError: There are not so many writers.
        """
        n = _checked_number(n, self.graph.n_nodes, "writers")
        absolute = arguments.flag("absolute", absolute)
        scores = self.node_scores().sum(axis=1).mean(axis=-1)
        if absolute:
            scores = np.abs(scores)
        chosen = np.zeros(self.graph.has_edge.shape, bool)
        chosen[np.argsort(-scores, kind="stable")[:n]] = True
        return Circuit(self.graph, chosen & self.graph.has_edge)

    def to_pandas(self) -> "pandas.DataFrame":
        """One row per edge, position and example: `writer`, `reader`, `pos`, `example`, `score`.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        pandas = import_optional("pandas", "to_pandas")
        has_edge = np.broadcast_to(self.graph.has_edge[:, :, None, None], self.values.shape)
        writers, readers, positions, examples = np.nonzero(has_edge)
        columns = {
            "writer": [str(self.graph.writers[index]) for index in writers],
            "reader": [str(self.graph.readers[index]) for index in readers],
            "pos": positions,
            "example": examples,
            "score": self.values[has_edge],
        }
        return pandas.DataFrame(columns)

    def to_json(self, path: str | os.PathLike[str], circuit: Circuit | None = None) -> None:
        """Write the graph as EAP-IG and the Mechanistic Interpretability Benchmark read it. Whole or not at all.

        Scores are summed over positions, and means over examples. Each KV head is there once for each of its query
        heads, with an equal share of its score.

        Args:
            path: The file.
            circuit: The edges that are `in_graph`; None is all.
        Raises:
            ArchitectureError: The format has no name for some part of the model.
            ShapeError: The circuit is of another graph.
            FileError: `path` cannot be written to.
        """
        if circuit is None:
            circuit = Circuit(self.graph, self.graph.has_edge)
        self._refuse_other(circuit)
        text = graph_file(self.graph, self.mean(), self.node_scores().sum(axis=1).mean(axis=-1), circuit.has_edge)
        with written_whole(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    @staticmethod
    def from_json(path: str | os.PathLike[str], n_kv_heads: int | None = None) -> "tuple[EdgeScores, Circuit]":
        """The scores in a file, and the circuit of the edges that are `in_graph`.

        Args:
            path: A file of `to_json`, EAP-IG or the benchmark.
            n_kv_heads: The model's KV heads, whose copies are put together again, where neighbours share one; None
                leaves one for each query head.
        Returns:
            Scores with one position and one example, and a baseline of NaN, since the format has neither.
        Raises:
            FileError: The file cannot be read, or is no such graph.
        """
        graph, scores, in_graph = read_graph_file(path, n_kv_heads)
        unknown = np.full(1, np.nan, np.float32)
        return EdgeScores(graph, scores[:, :, None, None], unknown, {}), Circuit(graph, in_graph)

    def plot(self, circuit: Circuit | None = None, ax: Any = None) -> "matplotlib.axes.Axes":
        """A circuit as a network: layers upwards, edges as wide as their scores are large, red above 0 and blue below.

        Args:
            circuit: The edges; None is `top(50, connected=True)`.
            ax: Where to draw; by default on a new figure with room for all nodes.
        Returns:
            The axes; `.figure.savefig(path)` writes the figure.
        Raises:
            MissingExtraError: matplotlib is not installed.
            ShapeError: The circuit is of another graph.
            ValueRefusedError: It has no edge.
        """
        return network(self._network(circuit), ax=ax)

    def to_html(self, path: str | os.PathLike[str] | None = None, circuit: Circuit | None = None) -> str:
        """The same as one HTML page, which loads nothing: scores where one points, and beneath it as a table.

        Args:
            path: Where to write it as well, whole or not at all; None writes nothing.
            circuit: As in `plot`.
        Raises:
            ShapeError: The circuit is of another graph.
            ValueRefusedError: It has no edge.
            FileError: `path` cannot be written to.
        """
        return text_written(html_page("Circuit", self._picture(circuit), style=_STYLE), path)

    def _repr_html_(self) -> str:
        return html_fragment(self._picture(None), style=_STYLE)

    def _picture(self, circuit: Circuit | None) -> str:
        """The network, and its edges as a table, the strongest first."""
        drawn = self._network(circuit)
        links = sorted((link for link in drawn.links if link.name), key=lambda link: -abs(link.value))
        table = html_table(["edge", "score"], [[link.name, f"{link.value:.4g}"] for link in links])
        return f"{network_svg(drawn)}<details><summary>The same edges as a table</summary>{table}</details>"

    def _network(self, circuit: Circuit | None) -> Network:
        if circuit is None:
            circuit = self.top(min(_DRAWN, self.graph.n_edges), connected=True)
        self._refuse_other(circuit)
        title = f"{circuit.n_edges} of {self.graph.n_edges:,} edges"
        return network_of_circuit(circuit, self.mean(), title)

    def _refuse_other(self, circuit: Circuit) -> None:
        arguments.instance("circuit", circuit, Circuit)
        if circuit.graph != self.graph:
            raise ShapeError("`circuit` must be of the same graph. Got that of another model. Take it from `top`.")

    @override
    def __repr__(self) -> str:
        _, _, length, examples = self.values.shape
        return f"EdgeScores({self.graph.n_edges} edges, {length} positions, {examples} examples)"


def _read_only(array: np.ndarray) -> np.ndarray:
    """A copy in float32 that is read-only; or the array itself, if it is so already."""
    if array.dtype == np.float32 and not array.flags.writeable:
        return array
    copy = np.array(array, np.float32)
    copy.flags.writeable = False
    return copy


def _checked_number(n: object, n_all: int, kind: str) -> int:
    """A number of edges or writers.

    Raises:
        KindError: It is no whole number.
        ValueRefusedError: There are not so many.
    """
    count = arguments.whole_number("n", n, remedy=f"Give the number of {kind}.")
    if not 0 <= count <= n_all:
        raise ValueRefusedError(f"`n` must lie in 0 to {n_all}, the number of {kind}. Got {count}. Choose fewer.")
    return count
