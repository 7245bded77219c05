"""Edges are removed from the logits back, each by a run of its own; of a minimal circuit none is left over."""

import numpy as np
import pytest
from edge_reference import METRIC, OTHER, TOKENS

import mlx_patch as mp
from mlx_patch.circuits import Circuit
from mlx_patch.errors import KindError, ShapeError, ValueRefusedError


@pytest.fixture(scope="module")
def scored(tiny):
    model = tiny("llama")
    _, source = model.run_with_cache(OTHER, sites=mp.circuits.writer_sites(model))
    return model, source, mp.circuits.edges(model, TOKENS, source, METRIC)


def measured(model, source, circuit):
    return np.array(METRIC(mp.circuits.run(model, TOKENS, source, circuit)))


def by_hand(model, source, circuit, threshold):
    """The algorithm, with a run for every edge."""
    host = measured(model, source, Circuit(circuit.graph, circuit.graph.has_edge))
    has_edge = circuit.has_edge.copy()
    for writer, reader in sorted(np.argwhere(has_edge).tolist(), key=lambda place: (-place[1], -place[0])):
        before = np.abs(measured(model, source, Circuit(circuit.graph, has_edge)) - host).mean()
        without = has_edge.copy()
        without[writer, reader] = False
        after = np.abs(measured(model, source, Circuit(circuit.graph, without)) - host).mean()
        if after - before < threshold:
            has_edge = without
    return has_edge


def test_pruning_removes_what_the_algorithm_removes(scored):
    model, source, edges = scored
    start = edges.top(16)
    pruned = mp.circuits.prune(model, TOKENS, source, METRIC, start, 0.02)
    assert 0 < pruned.circuit.n_edges < 16
    np.testing.assert_array_equal(pruned.circuit.has_edge, by_hand(model, source, start, 0.02))
    np.testing.assert_allclose(pruned.metric, measured(model, source, pruned.circuit), atol=1e-5)
    np.testing.assert_allclose(pruned.host, METRIC(model.run(TOKENS)), atol=1e-4)


@pytest.mark.parametrize("name", ["gemma2", "gpt_neox-parallel", "mixtral"])
def test_runs_that_begin_at_the_reader_are_whole_runs(tiny, name):
    model = tiny(name)
    _, source = model.run_with_cache(OTHER, sites=mp.circuits.writer_sites(model))
    start = mp.circuits.edges(model, TOKENS, source, METRIC).top(8, connected=True)
    pruned = mp.circuits.prune(model, TOKENS, source, METRIC, start, 0.001)
    np.testing.assert_array_equal(pruned.circuit.has_edge, by_hand(model, source, start, 0.001))
    np.testing.assert_allclose(pruned.metric, measured(model, source, pruned.circuit), atol=1e-5)
    assert pruned.n_blocks < pruned.n_runs * model.n_layers


def test_a_run_that_begins_too_late_turns_it_red(scored, monkeypatch):
    monkeypatch.setattr("mlx_patch.circuits._pruning._start_of", lambda states, reader: states[-1])
    with pytest.raises(AssertionError):
        test_pruning_removes_what_the_algorithm_removes(scored)


def test_edges_into_what_is_not_read_cost_no_run(scored):
    model, source, edges = scored
    start = Circuit.of_edges(edges.graph, ["input->m0", "input->a1.h0<q>", "a0.h1->m1", "m2->logits"])
    pruned = mp.circuits.prune(model, TOKENS, source, METRIC, start, 1e-3)
    # The host, the start, and without the one edge that is read. With the source's stream, m2 adds what it does there.
    assert pruned.n_runs == 3
    assert pruned.circuit.n_edges == 0


def test_a_high_threshold_removes_all_edges(scored):
    model, source, edges = scored
    pruned = mp.circuits.prune(model, TOKENS, source, METRIC, edges.top(6), 1e6)
    assert pruned.circuit.n_edges == 0
    np.testing.assert_allclose(pruned.metric, METRIC(model.run(OTHER)), atol=1e-4)


def test_minimality_is_what_each_edge_is_worth(scored):
    model, source, edges = scored
    circuit = edges.top(8, connected=True)
    minimal = mp.circuits.minimality(model, TOKENS, source, METRIC, circuit)
    host, none = METRIC(model.run(TOKENS)).mean().item(), METRIC(model.run(OTHER)).mean().item()
    for index, name in enumerate(circuit.edges):
        without = Circuit.of_edges(edges.graph, [other for other in circuit.edges if other != name])
        lost = measured(model, source, circuit).mean() - measured(model, source, without).mean()
        assert minimal.drops[index] == pytest.approx(lost / (host - none), abs=1e-4)
    assert np.abs(minimal.drops).max() > 0.01


@pytest.mark.parametrize(
    ("threshold", "error", "message"),
    [("much", KindError, "`threshold` must be a number"), (-0.1, ValueRefusedError, "`threshold` must be 0 or more")],
)
def test_what_is_no_threshold_is_refused(scored, threshold, error, message):
    model, source, edges = scored
    with pytest.raises(error, match=message):
        mp.circuits.prune(model, TOKENS, source, METRIC, edges.top(1), threshold)


def test_a_circuit_of_another_model_is_refused(scored, tiny):
    model, source, _ = scored
    other = tiny("gpt2")
    _, cache = other.run_with_cache(OTHER, sites=mp.circuits.writer_sites(other))
    circuit = mp.circuits.edges(other, TOKENS, cache, METRIC).top(2)
    for call in (
        lambda: mp.circuits.prune(model, TOKENS, source, METRIC, circuit, 0.1),
        lambda: mp.circuits.minimality(model, TOKENS, source, METRIC, circuit),
    ):
        with pytest.raises(ShapeError, match="`circuit` must be of this model's graph"):
            call()
