"""The example of circuits: its curve, its table and its files, on a tiny model."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def example():
    """The script, importable as the scripts import one another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        import circuits

        yield circuits


@pytest.fixture(scope="module")
def task(example, tiny):
    """The task with other prompts, since a tiny model has no tokenizer."""
    task = object.__new__(example.Task)
    task.model, task.host = tiny("llama"), mx.array([[3, 1, 4, 1], [2, 7, 1, 8]])
    task.metric = mp.metrics.LogitDiff(3, 5)
    sites = mp.circuits.writer_sites(task.model)
    _, task.cache = task.model.run_with_cache(mx.array([[3, 1, 5, 1], [2, 7, 4, 8]]), sites=sites)
    return task


@pytest.fixture(scope="module")
def edges(task):
    return task.edges("gradient")


def test_the_curve_ends_with_all_edges(example, task, edges):
    curve = task.curve(edges, (0.05, 1.0), complements=True)
    lines = example.table({"gradient": curve}).splitlines()
    assert len(lines) == 4
    assert lines[-1].split()[:3] == [str(edges.graph.n_edges), "1.000", "1.00"]
    assert float(lines[-1].split()[-1]) == 0
    circuit = edges.top(round(0.05 * edges.graph.n_edges), connected=True)
    assert task.measure(circuit) == pytest.approx(curve.absolute[0].mean(), abs=1e-4)


def test_the_strongest_edges_come_first(example, edges):
    sizes = [abs(float(line.split()[-1])) for line in example.strongest(edges, 5).splitlines()]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == pytest.approx(np.nanmax(np.abs(edges.mean())), abs=0.01)


def test_graph_and_figures_are_written(example, task, edges, tmp_path):
    example.write({"gradient": task.curve(edges, (0.05, 1.0))}, edges, tmp_path)
    kinds = {f"circuit_smollm2.{suffix}" for suffix in ("json", "html", "png")}
    assert {path.name for path in tmp_path.iterdir()} == {*kinds, "faithfulness_smollm2.png"}
    graph = json.loads((tmp_path / "circuit_smollm2.json").read_text(encoding="utf-8"))
    assert sum(edge["in_graph"] for edge in graph["edges"].values()) >= 50
