"""How much of the metric's difference circuits of growing size keep, and the areas under such curves."""

import numpy as np
import pytest
from edge_reference import METRIC, OTHER, TOKENS

import mlx_patch as mp
from mlx_patch.circuits import SHARES, Circuit, FaithfulnessCurve
from mlx_patch.errors import KindError, PatchError, ShapeError, UnknownNameError, ValueRefusedError


def scored(model):
    _, source = model.run_with_cache(OTHER, sites=mp.circuits.writer_sites(model))
    return source, mp.circuits.edges(model, TOKENS, source, METRIC)


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
    np.testing.assert_allclose(curve.absolute[1], by_hand, atol=1e-5)
    assert curve.absolute.shape == (3, 2)
    assert curve.complement is None


@pytest.mark.parametrize("metric", [METRIC, mp.metrics.LogitDiff(5, 3)])
def test_signed_ranks_are_of_the_way_to_the_source(tiny, metric):
    """A metric that falls and its negative, which rises, rank the same edges."""
    model = tiny("llama")
    source, _ = scored(model)
    edges = mp.circuits.edges(model, TOKENS, source, metric)
    gap = float(metric(model.run(OTHER)).mean() - metric(model.run(TOKENS)).mean())
    curve = mp.circuits.faithfulness(
        model, TOKENS, source, metric, edges, (edges.graph.n_edges - 1, edges.graph.n_edges)
    )
    worst = np.nanargmin(edges.mean().ravel() * np.sign(gap))
    has_edge = edges.graph.has_edge.copy()
    has_edge.ravel()[worst] = False
    by_hand = metric(mp.circuits.run(model, TOKENS, source, Circuit(edges.graph, has_edge)))
    np.testing.assert_allclose(curve.signed[0], by_hand, atol=1e-5)


def test_connected_circuits_grow_from_the_logits(tiny):
    model = tiny("llama")
    source, edges = scored(model)
    curve = mp.circuits.faithfulness(model, TOKENS, source, METRIC, edges, (9,), connected=True)
    by_hand = METRIC(mp.circuits.run(model, TOKENS, source, edges.top(9, connected=True)))
    np.testing.assert_allclose(curve.absolute[0], by_hand, atol=1e-5)


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
        ([2] * 10, 1.998, 0.999),  # what exceeds the whole model is as far from it as what falls short
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
    "no number": ({"sizes": (0.5,)}, KindError, "`sizes` must be a whole number"),
    "metrics": ({"metric": [METRIC]}, KindError, "`metric` must be one metric"),
    "scores": ({"edges": [1.0]}, PatchError, "`edges` must be scores"),
    "connected nodes": ({"by": "node", "connected": True}, ValueRefusedError, "`connected` must be False"),
    "parts": ({"by": "edges"}, UnknownNameError, "`by` must be what a circuit is made of"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), REFUSALS.values(), ids=REFUSALS)
def test_what_has_no_curve_is_refused(tiny, arguments, error, message):
    model = tiny("llama")
    source, edges = scored(model)
    call = {"tokens": TOKENS, "cache": source, "metric": METRIC, "edges": edges, **arguments}
    with pytest.raises(error, match=message):
        mp.circuits.faithfulness(model, **call)


def test_a_curve_of_nodes_edits_the_other_nodes(tiny):
    model = tiny("llama")
    source, edges = scored(model)
    n_nodes = edges.graph.n_nodes
    curve = mp.circuits.faithfulness(model, TOKENS, source, METRIC, edges, (0, n_nodes - 1, n_nodes), by="node")
    assert curve.f_absolute[0] == 0
    assert curve.f_absolute[2] == 1
    scores = np.abs(edges.node_scores().sum(axis=1).mean(axis=-1))
    weakest = edges.graph.writers[int(np.argmin(scores))]
    sites = {"mlp": "mlp_out", "head": "z", "input": "embed"}
    edit = mp.Replace(source).at(sites[weakest.kind], layer=weakest.layer, head=weakest.head)
    np.testing.assert_allclose(curve.absolute[1], METRIC(model.run(TOKENS, edits=[edit])), atol=1e-4)


def test_complements_are_all_other_edges(tiny):
    model = tiny("llama")
    source, edges = scored(model)
    curve = mp.circuits.faithfulness(
        model, TOKENS, source, METRIC, edges, (0, 30, edges.graph.n_edges), complements=True
    )
    assert curve.f_complement[0] == 1
    assert curve.f_complement[2] == 0
    by_hand = METRIC(mp.circuits.run(model, TOKENS, source, edges.top(30).complement))
    np.testing.assert_allclose(curve.complement[1], by_hand, atol=1e-5)


def test_an_interval_is_of_the_ratio_of_resampled_means():
    rng = np.random.default_rng(0)
    host, source = rng.normal(3, 1, 40), rng.normal(0, 1, 40)
    values = np.stack([source, 0.3 * source + 0.7 * host, host])
    curve = FaithfulnessCurve((0, 1, 2), (0.0, 0.5, 1.0), values, values, host, source)
    low, high = curve.interval("signed")
    # A mixture of host and source is the same share of their difference in every resample.
    np.testing.assert_allclose(low, [0, 0.7, 1], atol=1e-6)
    np.testing.assert_allclose(high, [0, 0.7, 1], atol=1e-6)
    noisy = values + np.array([0, 1, 0])[:, None] * rng.normal(0, 1, 40)
    curve = FaithfulnessCurve((0, 1, 2), (0.0, 0.5, 1.0), noisy, noisy, host, source)
    low, high = curve.interval(level=0.9, resamples=500)
    draws = np.random.default_rng(1).integers(0, 40, (20_000, 40))
    ratios = (noisy[1][draws] - source[draws]).mean(axis=1) / (host[draws] - source[draws]).mean(axis=1)
    np.testing.assert_allclose([low[1], high[1]], np.quantile(ratios, [0.05, 0.95]), atol=0.02)
    assert low[1] < curve.f_absolute[1] < high[1]


def test_an_interval_of_what_was_not_run_is_refused():
    curve = curve_of([1] * 10)
    with pytest.raises(UnknownNameError, match="`ranking` must be of a curve that was run"):
        curve.interval("complement")
    with pytest.raises(ValueRefusedError, match="The curve has no complements"):
        _ = curve.f_complement
    with pytest.raises(ValueRefusedError, match="two examples or more"):
        curve.interval()


def test_circuits_are_made_by_name(tiny):
    _, edges = scored(tiny("llama"))
    graph = edges.graph
    names = edges.top(7).edges
    np.testing.assert_array_equal(Circuit.of_edges(graph, names).has_edge, edges.top(7).has_edge)
    nodes = Circuit.of_nodes(graph, ["a0.h1", "m1"])
    assert {name.split("->")[0] for name in nodes.edges} == {"a0.h1", "m1"}
    assert nodes.n_edges == graph.has_edge.sum(axis=1)[[2, 10]].sum()
    with pytest.raises(UnknownNameError, match=r"`names` must be of the graph's edges\. Got 'a0.h1->a0.h0<q>'"):
        Circuit.of_edges(graph, ["a0.h1->a0.h0<q>"])
    with pytest.raises(UnknownNameError, match="`names` must be of the graph's writers"):
        Circuit.of_nodes(graph, ["logits"])
