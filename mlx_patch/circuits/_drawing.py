"""A circuit as a network to draw: layers upwards, heads side by side, MLPs at the left."""

from collections.abc import Sequence

import numpy as np

from mlx_patch.circuits._circuit import Circuit
from mlx_patch.circuits._graph import Graph
from mlx_patch.circuits._nodes import Reader, Writer
from mlx_patch.plot import LineStyle, Network, NetworkLink, NetworkNode

_STYLES: dict[LineStyle, str] = {"solid": "into q, MLP or logits", "dashed": "into k", "dotted": "into v"}
_STYLE_OF: dict[str, LineStyle] = {"k": "dashed", "v": "dotted"}
_BELOW, _ABOVE = -0.3, 0.3
"""Rows of KV heads and MLPs, beside that of query heads."""


def network_of_circuit(circuit: Circuit, scores: np.ndarray, title: str) -> Network:
    """The nodes and edges of a circuit, where only layers and heads with edges have a place.

    Where several query heads share a KV head, it is a node of its own, joined to them by a grey line.

    Args:
        circuit: The edges.
        scores: Of each edge. Shape `(writer, reader)`.
        title: Above the plot.
    """
    graph = circuit.graph
    places = [(int(writer), int(reader)) for writer, reader in np.argwhere(circuit.has_edge)]
    names: list[str] = []
    joined: list[tuple[str, str]] = []
    links: list[tuple[str, str, float, LineStyle, str]] = []
    for writer, reader in places:
        end = graph.readers[reader]
        start_name, end_name = str(graph.writers[writer]), _node_of(graph, end)
        names += [start_name, end_name]
        style = _STYLE_OF.get(end.kind, "solid")
        links.append((start_name, end_name, float(scores[writer, reader]), style, graph.edge_name(writer, reader)))
    names = list(dict.fromkeys(names))
    for writer in graph.writers:
        kv_node = _kv_node_of(graph, writer)
        if kv_node and kv_node in names and str(writer) in names:
            joined.append((kv_node, str(writer)))
    nodes = _placed(graph, names)
    index = {node.name: number for number, node in enumerate(nodes)}
    drawn = [NetworkLink(index[start], index[end], 0.0, "none", "") for start, end in joined]
    drawn += [NetworkLink(index[start], index[end], value, style, name) for start, end, value, style, name in links]
    return Network(nodes, drawn, _row_labels(graph, names), _STYLES, title)


def _node_of(graph: Graph, reader: Reader) -> str:
    """The name of the node of a reader."""
    if reader.layer is None or reader.head is None:
        return str(reader)
    block = graph.blocks[reader.layer]
    if reader.kind == "q" or block.n_kv_heads == block.n_heads:
        return f"a{reader.layer}.h{reader.head}"
    return f"a{reader.layer}.kv{reader.head}"


def _kv_node_of(graph: Graph, writer: Writer) -> str:
    """The name of the node of the KV head that a query head reads; empty where it has none."""
    if writer.layer is None or writer.head is None:
        return ""
    block = graph.blocks[writer.layer]
    if not block.n_kv_heads or block.n_kv_heads == block.n_heads:
        return ""
    return _node_of(graph, Reader("k", writer.layer, graph.kv_head_of(block, writer.head)))


def _columns(graph: Graph, names: Sequence[str]) -> dict[str, float]:
    """The column of each node that has one: of query heads those that have edges, and of KV heads those between."""
    by_head = {str(writer): writer for writer in graph.writers if writer.head is not None}
    heads = sorted({by_head[name].head or 0 for name in names if name in by_head})
    columns = {name: float(heads.index(by_head[name].head or 0)) for name in names if name in by_head}
    for writer in graph.writers:
        kv_node = _kv_node_of(graph, writer)
        if kv_node in names and kv_node not in columns:
            block = graph.blocks[writer.layer or 0]
            first = (writer.head or 0) / block.n_heads
            columns[kv_node] = max(0, len(heads) - 1) * first + 0.5
    return columns


def _layers(graph: Graph, names: Sequence[str]) -> dict[str, int]:
    """The layer of each node that has one."""
    layers = {str(writer): writer.layer for writer in graph.writers if writer.layer is not None}
    for reader in graph.readers:
        if reader.layer is not None:
            layers[_node_of(graph, reader)] = reader.layer
    return {name: layers[name] for name in names if name in layers}


def _placed(graph: Graph, names: Sequence[str]) -> list[NetworkNode]:
    columns, layers = _columns(graph, names), _layers(graph, names)
    rows = {layer: row + 1 for row, layer in enumerate(sorted(set(layers.values())))}
    middle = max(columns.values(), default=0.0) / 2
    nodes = []
    for name in names:
        if name not in layers:
            y = 0 if name == "input" else len(rows) + 1
            nodes.append(NetworkNode(name, middle, y))
        elif name not in columns:
            nodes.append(NetworkNode(name, -1.5, rows[layers[name]] + _ABOVE))
        elif ".kv" in name:
            nodes.append(NetworkNode(name, columns[name], rows[layers[name]] + _BELOW))
        else:
            nodes.append(NetworkNode(name, columns[name], rows[layers[name]]))
    return nodes


def _row_labels(graph: Graph, names: Sequence[str]) -> dict[float, str]:
    layers = sorted(set(_layers(graph, names).values()))
    return {float(row + 1): f"layer {layer}" for row, layer in enumerate(layers)}
