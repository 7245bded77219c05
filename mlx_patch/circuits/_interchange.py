"""Graphs as JSON, in the format of EAP-IG and the Mechanistic Interpretability Benchmark.

There, every query head has keys and values of its own. So a KV head stands there once for each of its query heads, with
an equal share of its score, and is in the graph where any of them is.
"""

import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from mlx_patch import arguments
from mlx_patch.circuits._graph import BlockParts, Graph
from mlx_patch.circuits._nodes import Reader
from mlx_patch.errors import ArchitectureError, FileError


def graph_file(graph: Graph, scores: np.ndarray, node_scores: np.ndarray, in_graph: np.ndarray) -> str:
    """The text of a file.

    Args:
        graph: The writers and readers.
        scores: Of each edge. Shape `(writer, reader)`.
        node_scores: Of each writer. Shape `(writer,)`; the logits get 0.
        in_graph: Which edges are in the graph. The shape of `scores`.
    Raises:
        ArchitectureError: The format has no name for some part of the model.
    """
    first = _common_parts(graph)
    nodes = {}
    for index, writer in enumerate(graph.writers):
        nodes[str(writer)] = {"in_graph": bool(in_graph[index].any()), "score": float(node_scores[index])}
    nodes["logits"] = {"in_graph": bool(in_graph[:, -1].any()), "score": 0.0}
    edges = {}
    for (writer, reader), names, share in _named_edges(graph):
        entry = {"score": float(scores[writer, reader]) / share, "in_graph": bool(in_graph[writer, reader])}
        for name in names:
            edges[name] = dict(entry)
    cfg = {
        "n_layers": len(graph.blocks),
        "n_heads": first.n_heads,
        "parallel_attn_mlp": first.parallel,
        "d_model": graph.d_model,
    }
    return json.dumps({"cfg": cfg, "nodes": nodes, "edges": edges})


def read_graph_file(path: str | os.PathLike[str], n_kv_heads: int | None) -> tuple[Graph, np.ndarray, np.ndarray]:
    """The graph in a file, the scores of its edges, and which of them are in the graph; all are checked.

    Args:
        path: The file.
        n_kv_heads: The KV heads whose copies are put together; None leaves them.
    Raises:
        FileError: The file cannot be read, or is no such graph.
    """
    path = arguments.path("path", path)
    if n_kv_heads is not None:
        n_kv_heads = arguments.whole_number("n_kv_heads", n_kv_heads, 1)
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
        graph = _graph_of(contents["cfg"], n_kv_heads)
        entries = contents["edges"]
        scores = np.full(graph.has_edge.shape, np.nan, np.float32)
        in_graph = np.zeros(graph.has_edge.shape, bool)
        n_named = 0
        for place, names, _ in _named_edges(graph):
            copies = [entries[name] for name in names]
            scores[place] = sum(float(copy["score"]) for copy in copies)
            in_graph[place] = any(copy["in_graph"] for copy in copies)
            n_named += len(names)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _no_graph(path, f"{type(error).__name__}: {error}") from error
    if n_named != len(entries):
        raise _no_graph(path, f"{len(entries)} edges, of which {n_named} are those of its `cfg`")
    return graph, scores, in_graph


def _no_graph(path: str | os.PathLike[str], reason: str) -> FileError:
    return FileError(
        f"`path` must be a graph as EAP-IG writes it. Got {path}: {reason}. Write one with `EdgeScores.to_json`."
    )


def _graph_of(cfg: Any, n_kv_heads: int | None) -> Graph:
    """The graph of a configuration.

    Raises:
        ValueError: The KV heads do not divide the heads.
    """
    n_heads, parallel = int(cfg["n_heads"]), bool(cfg["parallel_attn_mlp"])
    n_kv_heads = n_kv_heads or n_heads
    if n_heads % n_kv_heads:
        raise ValueError(f"{n_heads} heads cannot share {n_kv_heads} KV heads")
    blocks = [BlockParts(layer, True, True, n_heads, n_kv_heads, parallel) for layer in range(int(cfg["n_layers"]))]
    return Graph(tuple(blocks), int(cfg["d_model"]))


def _common_parts(graph: Graph) -> BlockParts:
    """The parts that all blocks have.

    Raises:
        ArchitectureError: Some block has others, or parts without a name in the format.
    """
    first = graph.blocks[0]
    for block in graph.blocks:
        if not (block.n_heads and block.n_kv_heads and block.has_mlp):
            raise ArchitectureError(
                f"`path` must get a graph of attention heads and MLPs alone. Got block {block.layer} without one, or "
                "one whose mixer is read as a whole, for which the format has no name. Use `to_pandas`."
            )
        if (block.n_heads, block.parallel) != (first.n_heads, first.parallel):
            raise ArchitectureError(
                f"`path` must get a graph whose blocks are alike. Got block {block.layer} with {block.n_heads} heads, "
                f"and block 0 with {first.n_heads}, for which the format has no fields. Use `to_pandas`."
            )
    return first


def _named_edges(graph: Graph) -> Iterator[tuple[tuple[int, int], list[str], int]]:
    """Each edge by its indices, with the names of its copies and their number."""
    readers = [_names_of(graph, reader) for reader in graph.readers]
    for writer, reader in np.argwhere(graph.has_edge):
        names = [f"{graph.writers[writer]}->{name}" for name in readers[reader]]
        yield (int(writer), int(reader)), names, len(names)


def _names_of(graph: Graph, reader: Reader) -> list[str]:
    """The names of a reader: those of the query heads that share a KV head."""
    if reader.kind not in ("k", "v") or reader.layer is None:
        return [str(reader)]
    block = graph.blocks[reader.layer]
    heads = [head for head in range(block.n_heads) if graph.kv_head_of(block, head) == reader.head]
    return [f"a{reader.layer}.h{head}<{reader.kind}>" for head in heads]
