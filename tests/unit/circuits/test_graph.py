"""Writers, readers and edges; what is chosen of them, and their files."""

import json

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.circuits import BlockParts, Circuit, EdgeScores, Graph, Reader
from mlx_patch.errors import ArchitectureError, FileError, KindError, ShapeError, ValueRefusedError
from mlx_patch.testing.zoo import built

GPT2 = {"n_ctx": 16, "n_positions": 16, "n_embd": 48, "n_layer": 12, "n_head": 12, "layer_norm_epsilon": 1e-5}


def graph_of(n_layers=2, n_heads=2, n_kv_heads=1, parallel=False, tiled=False):
    blocks = [BlockParts(layer, True, True, n_heads, n_kv_heads, parallel) for layer in range(n_layers)]
    return Graph(tuple(blocks), 8, tiled)


def scores_of(graph, values=None):
    """Scores 1, -2, 3, -4 ... in the order of the writers, or others."""
    scores = np.full(graph.has_edge.shape, np.nan, np.float32)
    numbers = np.arange(1, graph.n_edges + 1) if values is None else np.array(values)
    scores[graph.has_edge] = numbers * np.where(np.arange(len(numbers)) % 2, -1, 1)
    return EdgeScores(graph, scores[:, :, None, None], np.zeros(1, np.float32), {})


def test_gpt2_small_has_32491_edges():
    model = mp.HookedModel(built("gpt2", {**GPT2, "vocab_size": 96}))
    tokens, other = mx.array([[5, 6, 7]]), mx.array([[5, 9, 7]])
    _, source = model.run_with_cache(other, sites=mp.circuits.writer_sites(model))
    edges = mp.circuits.edges(model, tokens, source, mp.metrics.LogitDiff(3, 5))
    assert edges.graph.n_edges == 32_491
    assert len(edges.graph.writers) == 157
    assert np.isfinite(edges.values[edges.graph.has_edge]).all()


def test_edges_lead_forward():
    graph = graph_of(n_layers=1)
    writers, readers = list(map(str, graph.writers)), list(map(str, graph.readers))
    assert writers == ["input", "a0.h0", "a0.h1", "m0"]
    assert readers == ["a0.h0<q>", "a0.h1<q>", "a0.kv0<k>", "a0.kv0<v>", "m0", "logits"]
    assert graph.n_read == (1, 1, 1, 1, 3, 4)
    assert graph_of(n_layers=1, parallel=True).n_read == (1, 1, 1, 1, 1, 4)


def test_a_block_may_be_a_mixer_or_an_mlp_alone():
    graph = Graph((BlockParts(0, False, True, 0, 0, False), BlockParts(1, True, False, 0, 0, False)), 8)
    assert list(map(str, graph.writers)) == ["input", "m0", "mixer1"]
    assert list(map(str, graph.readers)) == ["m0", "mixer1", "logits"]
    assert graph.n_read == (1, 2, 3)


@pytest.mark.parametrize(("tiled", "kv_head"), [(False, [0, 0, 1, 1]), (True, [0, 1, 0, 1])])
def test_a_query_head_reads_its_kv_head(tiled, kv_head):
    graph = graph_of(n_heads=4, n_kv_heads=2, tiled=tiled)
    read_by = [[str(graph.readers[index]) for index in indices] for indices in graph.readers_of[1:5]]
    assert read_by == [[f"a0.h{h}<q>", f"a0.kv{g}<k>", f"a0.kv{g}<v>"] for h, g in enumerate(kv_head)]


def test_the_top_is_that_of_sizes_or_of_signed_scores():
    edges = scores_of(graph_of(n_layers=1))
    names = edges.top(edges.graph.n_edges).edges
    assert len(names) == edges.graph.n_edges == 11
    mean = edges.mean()
    by_size = np.sort(np.abs(mean[edges.top(3).has_edge]))
    np.testing.assert_array_equal(by_size, [9, 10, 11])
    np.testing.assert_array_equal(np.sort(mean[edges.top(3, absolute=False).has_edge]), [7, 9, 11])
    assert edges.top(0).n_edges == 0
    assert edges.top(4).complement.n_edges == 7


def test_negated_scores_rank_the_other_end():
    edges = scores_of(graph_of(n_layers=1))
    np.testing.assert_array_equal(
        np.sort(edges.negated.mean()[edges.negated.top(3, absolute=False).has_edge]), [6, 8, 10]
    )
    np.testing.assert_array_equal(edges.negated.negated.values, edges.values)


def test_the_top_nodes_have_all_their_edges():
    edges = scores_of(graph_of(n_layers=1))
    assert edges.top_nodes(1).edges == ("m0->logits",)  # node scores are -3, -1, -1 and 11
    assert edges.top_nodes(2).n_edges == 7
    assert edges.top_nodes(3, absolute=False).edges[0] == "a0.h0->m0"
    with pytest.raises(ValueRefusedError, match="`n` must lie in 0 to 4, the number of writers"):
        edges.top_nodes(5)


def test_a_connected_circuit_grows_from_the_logits():
    graph = graph_of(n_layers=1)
    values = np.ones(graph.n_edges)
    edges = scores_of(graph, values)
    strong = edges.values.copy()
    into_query = graph.readers.index(Reader("q", 0, 0)), graph.readers.index(Reader("mlp", 0))
    strong[0, into_query[0]] = 50  # the strongest, but its head is not in the circuit
    strong[1, into_query[1]] = 20
    strong[3, -1] = 10
    edges = EdgeScores(graph, strong, edges.baseline, {})
    assert edges.top(2).edges == ("input->a0.h0<q>", "a0.h0->m0")
    assert edges.top(2, connected=True).edges == ("a0.h0->m0", "m0->logits")
    assert edges.top(3, connected=True).edges == ("input->a0.h0<q>", "a0.h0->m0", "m0->logits")
    assert edges.top(graph.n_edges, connected=True).n_edges == graph.n_edges


def test_node_scores_are_sums_over_readers():
    edges = scores_of(graph_of(n_layers=1))
    np.testing.assert_array_equal(edges.node_scores()[:, 0, 0], [1 - 2 + 3 - 4 + 5 - 6, 7 - 8, 9 - 10, 11])


def test_a_file_has_every_field_of_the_format(tmp_path):
    edges = scores_of(graph_of(n_layers=1))
    edges.to_json(tmp_path / "graph.json", edges.top(2))
    contents = json.loads((tmp_path / "graph.json").read_text(encoding="utf-8"))
    assert contents["cfg"] == {"n_layers": 1, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 8}
    assert contents["nodes"] == {
        "input": {"in_graph": False, "score": -3.0},
        "a0.h0": {"in_graph": False, "score": -1.0},
        "a0.h1": {"in_graph": True, "score": -1.0},
        "m0": {"in_graph": True, "score": 11.0},
        "logits": {"in_graph": True, "score": 0.0},
    }
    assert contents["edges"] == {
        "input->a0.h0<q>": {"score": 1.0, "in_graph": False},
        "input->a0.h1<q>": {"score": -2.0, "in_graph": False},
        "input->a0.h0<k>": {"score": 1.5, "in_graph": False},
        "input->a0.h1<k>": {"score": 1.5, "in_graph": False},
        "input->a0.h0<v>": {"score": -2.0, "in_graph": False},
        "input->a0.h1<v>": {"score": -2.0, "in_graph": False},
        "input->m0": {"score": 5.0, "in_graph": False},
        "input->logits": {"score": -6.0, "in_graph": False},
        "a0.h0->m0": {"score": 7.0, "in_graph": False},
        "a0.h0->logits": {"score": -8.0, "in_graph": False},
        "a0.h1->m0": {"score": 9.0, "in_graph": False},
        "a0.h1->logits": {"score": -10.0, "in_graph": True},
        "m0->logits": {"score": 11.0, "in_graph": True},
    }


@pytest.mark.parametrize("parallel", [False, True])
def test_a_file_gives_back_what_was_written(tmp_path, parallel):
    edges = scores_of(graph_of(n_heads=4, n_kv_heads=2, parallel=parallel))
    edges.to_json(tmp_path / "graph.json", edges.top(5))
    again, circuit = EdgeScores.from_json(tmp_path / "graph.json", n_kv_heads=2)
    assert again.graph == edges.graph
    np.testing.assert_array_equal(again.values, edges.values)
    assert circuit.edges == edges.top(5).edges
    ungrouped, _ = EdgeScores.from_json(tmp_path / "graph.json")
    assert ungrouped.graph == graph_of(n_heads=4, n_kv_heads=4, parallel=parallel)
    np.testing.assert_allclose(ungrouped.node_scores(), edges.node_scores(), rtol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        lambda contents: contents.pop("cfg"),
        lambda contents: contents["cfg"].update(n_layers=2),
        lambda contents: contents["edges"].pop("input->m0"),
        lambda contents: contents["edges"].update({"m0->m0": {"score": 1.0, "in_graph": True}}),
        lambda contents: contents["edges"]["input->m0"].update(score="much"),
    ],
)
def test_a_file_that_is_no_graph_is_refused(tmp_path, change):
    path = tmp_path / "graph.json"
    scores_of(graph_of(n_layers=1)).to_json(path)
    contents = json.loads(path.read_text(encoding="utf-8"))
    change(contents)
    path.write_text(json.dumps(contents), encoding="utf-8")
    with pytest.raises(FileError, match="`path` must be a graph as EAP-IG writes it"):
        EdgeScores.from_json(path)


def test_kv_heads_that_do_not_fit_are_refused(tmp_path):
    scores_of(graph_of(n_layers=1)).to_json(tmp_path / "graph.json")
    with pytest.raises(FileError, match="2 heads cannot share 3 KV heads"):
        EdgeScores.from_json(tmp_path / "graph.json", n_kv_heads=3)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(FileError, match="`path` must be a graph"):
        EdgeScores.from_json(tmp_path / "none.json")


def test_parts_without_a_name_in_the_format_are_refused(tmp_path):
    whole = Graph((BlockParts(0, True, True, 2, 0, False),), 8)
    with pytest.raises(ArchitectureError, match="attention heads and MLPs alone"):
        scores_of(whole).to_json(tmp_path / "graph.json")
    uneven = Graph((BlockParts(0, True, True, 2, 1, False), BlockParts(1, True, True, 4, 1, False)), 8)
    with pytest.raises(ArchitectureError, match="whose blocks are alike"):
        scores_of(uneven).to_json(tmp_path / "graph.json")


def test_a_table_has_a_row_for_each_edge_and_place():
    edges = scores_of(graph_of(n_layers=1))
    table = edges.to_pandas()
    assert list(table) == ["writer", "reader", "pos", "example", "score"]
    assert len(table) == edges.graph.n_edges
    assert table[(table.writer == "m0") & (table.reader == "logits")].score.tolist() == [11.0]


def test_a_number_of_edges_that_is_not_there_is_refused():
    edges = scores_of(graph_of(n_layers=1))
    with pytest.raises(ValueRefusedError, match="`n` must lie in 0 to 11"):
        edges.top(12)
    with pytest.raises(KindError, match="`n` must be a whole number"):
        edges.top(0.5)


def test_what_is_no_circuit_of_the_graph_is_refused(tmp_path):
    graph = graph_of(n_layers=1)
    with pytest.raises(ValueRefusedError, match=r"`has_edge` must have edges that lead forward\. Got a0.h0->a0.h0<q>"):
        Circuit(graph, np.ones(graph.has_edge.shape, bool))
    with pytest.raises(ShapeError, match="`has_edge` must have the shape"):
        Circuit(graph, np.ones((2, 2), bool))
    with pytest.raises(KindError, match="`has_edge` must be a numpy array of bool"):
        Circuit(graph, graph.has_edge.astype(int))
    with pytest.raises(ShapeError, match="`circuit` must be of the same graph"):
        scores_of(graph).to_json(tmp_path / "graph.json", scores_of(graph_of()).top(1))


def test_a_circuit_of_nodes_needs_a_graph():
    with pytest.raises(KindError, match="`graph` must be a Graph"):
        Circuit.of_nodes("gpt2", ["m0"])


def test_scores_that_do_not_fit_the_graph_are_refused():
    graph = graph_of(n_layers=1)
    with pytest.raises(ShapeError, match="`values` must have the shape"):
        EdgeScores(graph, np.zeros((1, 1, 1, 1), np.float32), np.zeros(1, np.float32), {})
    with pytest.raises(ShapeError, match="`baseline` must have one number per example"):
        EdgeScores(graph, np.zeros((4, 6, 1, 1), np.float32), np.zeros(2, np.float32), {})
