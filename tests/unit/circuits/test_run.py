"""A circuit's run: all edges give the host, none the source, and one edge less what its reader alone would read."""

import mlx.core as mx
import numpy as np
import pytest
from edge_reference import METRIC, NAMES, OTHER, TOKENS, Reference

import mlx_patch as mp
from mlx_patch.circuits import Circuit, Reader, Writer
from mlx_patch.errors import KindError, ShapeError

EXACT = ["llama", "gemma2", "gpt_neox-parallel"]


def scored(model):
    _, source = model.run_with_cache(OTHER, sites=mp.circuits.writer_sites(model))
    return source, mp.circuits.edges(model, TOKENS, source, METRIC)


@pytest.mark.parametrize("name", EXACT)
def test_all_edges_give_the_host_and_none_the_source(tiny, name):
    model = tiny(name)
    source, edges = scored(model)
    whole = edges.top(edges.graph.n_edges)
    host_logits, source_logits = np.array(model.run(TOKENS)), np.array(model.run(OTHER))
    assert np.abs(host_logits - source_logits).max() > 0.1
    np.testing.assert_allclose(mp.circuits.run(model, TOKENS, source, whole), host_logits, atol=2e-4)
    np.testing.assert_allclose(mp.circuits.run(model, TOKENS, source, whole.complement), source_logits, atol=2e-4)


def some_edges(graph, count=14):
    """Edges from everywhere to everywhere, seeded."""
    places = np.argwhere(graph.has_edge)
    return places[np.random.default_rng(0).choice(len(places), count, replace=False)]


@pytest.mark.parametrize("name", NAMES)
def test_one_edge_less_is_what_its_reader_would_read(tiny, name):
    model = tiny(name)
    source, edges = scored(model)
    reference = Reference(model, name, source)
    graph = edges.graph
    for w, r in some_edges(graph):
        mask = graph.has_edge.copy()
        mask[w, r] = False
        found = METRIC(mp.circuits.run(model, TOKENS, source, Circuit(graph, mask)))
        writer, reader = graph.writers[w], graph.readers[r]
        expected = reference.metric(reader, reference.added(writer, 1.0, None))
        np.testing.assert_allclose(found, expected, atol=1e-4, err_msg=graph.edge_name(w, r))


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_heads_that_are_off_together_are_normed_together(tiny, name):
    """Two heads of one block and one of the next, each without its edge to the logits."""
    model = tiny(name)
    source, edges = scored(model)
    off = ["a0.h0->logits", "a0.h2->logits", "a1.h1->logits"]
    names = [edge for edge in edges.top(edges.graph.n_edges).edges if edge not in off]
    found = METRIC(mp.circuits.run(model, TOKENS, source, Circuit.of_edges(edges.graph, names)))
    reference = Reference(model, name, source)
    added = reference.added_by_heads(0, (0, 2)) + reference.added_by_heads(1, (1,))
    expected = reference.metric(Reader("logits"), added)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    one_by_one = sum(reference.added(Writer("head", *head), 1.0, None) for head in ((0, 0), (0, 2), (1, 1)))
    is_same = np.allclose(expected, reference.metric(Reader("logits"), one_by_one), atol=1e-3)
    assert is_same == (name == "llama")


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_more_patterns_than_heads_give_the_same(tiny, name):
    """Readers of the last block read other heads each, but the logits have the source's values of that block."""
    model = tiny(name)
    source, edges = scored(model)
    n_heads = edges.graph.blocks[2].n_heads
    off = ["a0.h0->logits", "a0.h2->logits", "a0.h0->m2", "a0.h1->m2", "m2->logits"]
    off += [f"a0.h{head}->a2.h{head}<q>" for head in range(n_heads)] + [
        f"a2.h{head}->logits" for head in range(n_heads)
    ]
    names = [edge for edge in edges.top(edges.graph.n_edges).edges if edge not in off]
    found = METRIC(mp.circuits.run(model, TOKENS, source, Circuit.of_edges(edges.graph, names)))
    reference = Reference(model, name, source)
    added = reference.added_by_heads(0, (0, 2))
    for site in ("attn_out", "mlp_out"):
        _, whole = model.run_with_cache(OTHER, sites=site)
        added += whole[site, 2] - reference.host[site, 2]
    np.testing.assert_allclose(found, reference.metric(Reader("logits"), added), atol=1e-4)


def test_edges_of_two_readers_in_a_row_add_up(tiny):
    """The second writer is recomputed under the first edge, so its own change is against that."""
    model = tiny("llama")
    source, edges = scored(model)
    graph = edges.graph
    mask = graph.has_edge.copy()
    names = list(map(str, graph.writers)), list(map(str, graph.readers))
    first = names[0].index("input"), names[1].index("m0")
    last = names[0].index("m0"), names[1].index("logits")
    mask[first] = mask[last] = False
    found = METRIC(mp.circuits.run(model, TOKENS, source, Circuit(graph, mask)))
    reference = Reference(model, "llama", source)
    block_input = reference.host["resid_mid", 0] + source["embed"] - reference.host["embed"]
    recomputed = model.layout.blocks[0].mlp(model.layout.blocks[0].post_attention_layernorm(block_input))
    edits = [
        mp.Replace(recomputed).at("mlp_out", layer=0),
        mp.Add(source["mlp_out", 0] - recomputed).at("model.norm:input"),
    ]
    np.testing.assert_allclose(found, METRIC(model.run(TOKENS, edits=edits)), atol=1e-4)


def test_pieces_give_the_same(tiny, monkeypatch):
    model = tiny("qwen3")
    source, edges = scored(model)
    circuit = edges.top(40)
    whole = mp.circuits.run(model, TOKENS, source, circuit)
    monkeypatch.setattr("mlx_patch.circuits._host_run._TOKENS_AT_ONCE", 40)
    np.testing.assert_allclose(mp.circuits.run(model, TOKENS, source, circuit), whole, atol=1e-5)


SOURCES = {"zero": mp.Ablate("zero"), "mean": mp.Ablate("mean", skip=1)}


@pytest.mark.parametrize("rest", ["zero", "mean"])
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_nodes_that_are_off_carry_what_an_intervention_makes(tiny, name, rest):
    """A writer whose edges are all off is edited in the whole run, and by nothing else."""
    model, intervention = tiny(name), SOURCES[rest]
    graph = mp.circuits.edges(model, TOKENS, intervention, METRIC).graph
    for off, site in ((Writer("head", 1, 2), "z"), (Writer("mlp", 0), "mlp_out"), (Writer("input"), "embed")):
        names = [str(writer) for writer in graph.writers if writer != off]
        logits = mp.circuits.run(model, TOKENS, intervention, Circuit.of_nodes(graph, names))
        edit = intervention.at(site, layer=off.layer, head=off.head)
        np.testing.assert_allclose(logits, model.run(TOKENS, edits=[edit]), atol=2e-4, err_msg=str(off))


def test_the_scores_of_an_ablation_sum_to_its_node_scores(tiny):
    model = tiny("llama")
    edges = mp.circuits.edges(model, TOKENS, mp.Ablate("zero"), METRIC)
    nodes = mp.attribute(model, TOKENS, mp.Ablate("zero"), at="mlp_out", over="layer", metric=METRIC)
    expected = nodes.values - nodes.baseline
    is_mlp = [writer.kind == "mlp" for writer in edges.graph.writers]
    np.testing.assert_allclose(edges.node_scores()[is_mlp].sum(axis=1), expected, atol=1e-5)


def test_what_is_no_circuit_of_the_model_is_refused(tiny):
    model = tiny("llama")
    source, _ = scored(model)
    _, others = scored(tiny("gpt2"))
    with pytest.raises(KindError, match=r"`circuit` must be a Circuit\. Got list"):
        mp.circuits.run(model, TOKENS, source, ["m0->logits"])
    with pytest.raises(ShapeError, match="`circuit` must be of this model's graph"):
        mp.circuits.run(model, TOKENS, source, others.top(1))


def test_a_source_that_is_not_subtracted_turns_it_red(tiny, monkeypatch):
    """As where an edge brought the source's value beside the circuit's own, and not in its place."""
    from mlx_patch.circuits import _circuit_run

    def whole(self, site, value, writer):
        change = self._runs.source[site].astype(mx.float32)
        return _circuit_run._Change(change[None], self._is_off[writer][None].astype(np.float32))

    monkeypatch.setattr(_circuit_run.CircuitRun, "_change", whole)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        test_all_edges_give_the_host_and_none_the_source(tiny, "llama")
