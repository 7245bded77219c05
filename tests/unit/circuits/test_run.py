"""A circuit's run: all edges give the host, none the source, and one edge less what its reader alone would read."""

import mlx.core as mx
import numpy as np
import pytest
from edge_reference import METRIC, OTHER, TOKENS, Reference

import mlx_patch as mp
from mlx_patch.circuits import SHARES, Circuit, FaithfulnessCurve
from mlx_patch.errors import ArchitectureError, KindError, PatchError, ShapeError, ValueRefusedError

EXACT = ["llama", "qwen3", "granite", "mixtral", "gpt_neox-parallel", "deepseek_v3", "mamba", "gpt2"]


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


@pytest.mark.parametrize("name", ["llama", "qwen3", "granite", "mixtral", "gpt_neox-parallel", "deepseek_v3"])
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


def test_a_norm_behind_the_heads_is_refused(tiny):
    model = tiny("gemma2")
    source, edges = scored(model)
    with pytest.raises(ArchitectureError, match="`model` must add the sum of its heads' shares"):
        mp.circuits.run(model, TOKENS, source, edges.top(3))


def test_what_is_no_circuit_of_the_model_is_refused(tiny):
    model = tiny("llama")
    source, _ = scored(model)
    _, others = scored(tiny("gpt2"))
    with pytest.raises(KindError, match=r"`circuit` must be a Circuit\. Got list"):
        mp.circuits.run(model, TOKENS, source, ["m0->logits"])
    with pytest.raises(ShapeError, match="`circuit` must be of this model's graph"):
        mp.circuits.run(model, TOKENS, source, others.top(1))


def test_faithfulness_is_1_for_all_edges_and_0_for_none(tiny):
    model = tiny("llama")
    source, edges = scored(model)
    sizes = (0, 30, edges.graph.n_edges)
    curve = mp.circuits.faithfulness(model, TOKENS, source, METRIC, edges, sizes)
    for values in (curve.f_signed, curve.f_absolute):
        assert values[0] == 0
        assert values[2] == 1
    np.testing.assert_allclose(curve.host, METRIC(model.run(TOKENS)), atol=1e-4)
    np.testing.assert_allclose(curve.source, METRIC(model.run(OTHER)), atol=1e-4)
    by_hand = METRIC(mp.circuits.run(model, TOKENS, source, edges.top(30)))
    np.testing.assert_array_equal(curve.absolute[1], np.array(by_hand))
    assert curve.absolute.shape == (3, 2)


def test_the_shares_are_those_of_the_benchmark(tiny):
    model = tiny("gpt2")
    source, edges = scored(model)
    curve = mp.circuits.faithfulness(model, TOKENS, source, METRIC, edges)
    assert curve.shares == SHARES
    assert curve.sizes == tuple(round(share * edges.graph.n_edges) for share in SHARES)
    assert np.isfinite([curve.cpr, curve.cmd]).all()


def curve_of(heights):
    values = np.array(heights)[:, None]
    return FaithfulnessCurve((), SHARES, values, values, np.ones(1), np.zeros(1))


@pytest.mark.parametrize(
    ("heights", "cpr", "cmd"),
    [
        ([1] * 10, 0.999, 0),
        ([0] * 9 + [1], 0.25, 0.749),
        (SHARES, 0.499999, 0.499001),  # the trapezoids of a line are exact: (1 - .001**2) / 2
        ([0] * 3 + [1] * 7, 0.9925, 0.0065),
    ],
)
def test_areas_are_those_that_were_computed_by_hand(heights, cpr, cmd):
    curve = curve_of(heights)
    assert curve.cpr == pytest.approx(cpr, abs=6e-7)
    assert curve.cmd == pytest.approx(cmd, abs=6e-7)


def test_faithfulness_is_a_ratio_of_means():
    values = np.array([[1.0, 4.0]])
    curve = FaithfulnessCurve((1,), (1.0,), values, values, np.array([2.0, 8.0]), np.array([0.0, 2.0]))
    np.testing.assert_allclose(curve.f_signed, [(2.5 - 1) / (5 - 1)])


def test_a_curve_whose_arrays_do_not_fit_is_refused():
    with pytest.raises(ShapeError, match="`signed` must fit the shape"):
        FaithfulnessCurve((1,), (1.0,), np.ones((2, 1)), np.ones((1, 1)), np.ones(1), np.zeros(1))


REFUSALS = {
    "order": ({"sizes": (5, 3)}, ValueRefusedError, "`sizes` must ascend"),
    "too many": ({"sizes": (3, 10**6)}, ValueRefusedError, "`sizes` must ascend"),
    "no number": ({"sizes": (0.5,)}, KindError, "`sizes` must be whole numbers"),
    "metrics": ({"metric": [METRIC]}, KindError, "`metric` must be one metric"),
    "scores": ({"edges": [1.0]}, PatchError, "`edges` must be scores"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), REFUSALS.values(), ids=REFUSALS)
def test_what_has_no_curve_is_refused(tiny, arguments, error, message):
    model = tiny("llama")
    source, edges = scored(model)
    call = {"tokens": TOKENS, "cache": source, "metric": METRIC, "edges": edges, **arguments}
    with pytest.raises(error, match=message):
        mp.circuits.faithfulness(model, **call)


def test_a_source_that_is_not_subtracted_turns_it_red(tiny, monkeypatch):
    """As where an edge brought the source's value beside the circuit's own, and not in its place."""
    from mlx_patch.circuits import _circuit_run

    def whole(self, site, value):
        return self._runs.source[site].astype(mx.float32)[:, :, None]

    monkeypatch.setattr(_circuit_run.CircuitRun, "_change", whole)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        test_all_edges_give_the_host_and_none_the_source(tiny, "llama")
