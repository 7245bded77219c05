"""An edge's score is the slope of the metric when its reader alone reads what its writer adds in the source's run."""

import mlx.core as mx
import numpy as np
import pytest
from edge_reference import METRIC, NAMES, OTHER, TOKENS, Reference

import mlx_patch as mp
from mlx_patch.circuits import Reader, Writer, _host_run, _scoring
from mlx_patch.errors import ArchitectureError, KindError, MissingSiteError, PatchError, ShapeError, UnknownNameError


def scored(model, tokens=TOKENS, other=OTHER, metric=METRIC):
    _, source = model.run_with_cache(other, sites=mp.circuits.writer_sites(model))
    return source, mp.circuits.edges(model, tokens, source, metric)


def chosen_edges(graph):
    """Every edge of a few writers of each kind, into readers of each kind in the middle and at the end."""
    last = graph.blocks[-1].layer
    readers = [reader for reader in graph.readers if reader.layer in (1, last, None)]
    writers = [writer for writer in graph.writers if writer.layer in (None, 0, last)]
    for writer in writers:
        for reader in readers:
            w, r = graph.writers.index(writer), graph.readers.index(reader)
            if graph.has_edge[w, r] and (reader.head or 0) < 2 and (writer.head or 0) < 2:
                yield w, r


@pytest.mark.parametrize("name", NAMES)
def test_a_score_is_the_slope_of_the_metric(tiny, name):
    model = tiny(name)
    source, edges = scored(model)
    reference = Reference(model, name, source)
    graph = edges.graph
    places = list(chosen_edges(graph))
    assert {graph.writers[w].kind for w, _ in places} >= {"input", "head", "mlp"}
    expected = np.array([reference.slope(graph.writers[w], graph.readers[r]) for w, r in places])
    found = np.array([edges.by_example[w, r] for w, r in places])
    size = np.abs(expected).max()
    assert size > 1e-2
    # A central difference is off by the third derivative times the step squared, and by rounding over the step.
    np.testing.assert_allclose(found, expected, atol=1e-2 * size, rtol=0.02)


def test_a_score_of_a_position_is_that_of_its_change(tiny):
    model = tiny("llama")
    source, edges = scored(model)
    reference = Reference(model, "llama", source)
    graph = edges.graph
    for writer, reader in ((Writer("head", 0, 1), Reader("k", 1, 0)), (Writer("input"), Reader("mlp", 1))):
        w, r = graph.writers.index(writer), graph.readers.index(reader)
        expected = np.array([reference.slope(writer, reader, pos) for pos in (2, 7)])
        np.testing.assert_allclose(edges.values[w, r, [2, 7]], expected, atol=2e-3)


def test_rows_of_a_batch_are_independent(tiny):
    model = tiny("qwen3")
    _, together = scored(model)
    for row in range(2):
        _, alone = scored(model, TOKENS[row : row + 1], OTHER[row : row + 1])
        np.testing.assert_allclose(together.values[..., row], alone.values[..., 0], atol=1e-5)


def test_a_list_of_equal_lengths_is_scored_as_a_batch(tiny):
    model = tiny("llama")
    _, source = model.run_with_cache(OTHER[:1], sites=mp.circuits.writer_sites(model))
    batch = mp.circuits.edges(model, TOKENS, source, METRIC)
    listed = mp.circuits.edges(model, [TOKENS[0], TOKENS[1]], source, METRIC)
    np.testing.assert_array_equal(listed.values, batch.values)


@pytest.mark.parametrize("precision", ["4bit", "bfloat16", "float16"])
def test_other_precisions_score_the_same(tiny, precision):
    model = tiny("llama", precision)
    source, edges = scored(model)
    assert np.isfinite(edges.values[edges.graph.has_edge]).all()
    if precision == "4bit":
        reference = Reference(model, "llama", source)
        for w, r in list(chosen_edges(edges.graph))[::5]:
            expected = reference.slope(edges.graph.writers[w], edges.graph.readers[r])
            np.testing.assert_allclose(edges.by_example[w, r], expected, atol=5e-3)
        return
    _, whole = scored(tiny("llama"))
    has_edge = whole.graph.has_edge
    correlation = np.corrcoef(edges.by_example[has_edge].ravel(), whole.by_example[has_edge].ravel())[0, 1]
    assert correlation > 0.98


def edit_of(writer, source):
    sites = {"mixer": "mixer_out", "mlp": "mlp_out", "head": "z", "input": "embed"}
    return mp.Replace(source).at(sites[writer.kind], layer=writer.layer, head=writer.head)


@pytest.mark.parametrize("name", ["llama", "gpt_neox-parallel", "granite", "mixtral"])
def test_increments_sum_to_node_scores(tiny, name):
    model = tiny(name)
    _, source = model.run_with_cache(OTHER, sites=mp.circuits.writer_sites(model))
    edges = mp.circuits.edges(model, TOKENS, source, METRIC, method="integrated", steps=3)
    over = [edit_of(writer, source) for writer in edges.graph.writers]
    nodes = mp.attribute(model, TOKENS, over=over, metric=METRIC, method="integrated", steps=3)
    expected = nodes.values - nodes.baseline
    np.testing.assert_allclose(edges.node_scores().sum(axis=1), expected, atol=2e-4 * np.abs(expected).max())


def test_increments_are_complete_at_both_ends(tiny):
    model = tiny("llama")
    host = TOKENS[:1]
    near = mx.where(mx.arange(8) == 6, OTHER[:1], host)
    _, source = model.run_with_cache(near, sites=mp.circuits.writer_sites(model))
    edges = mp.circuits.edges(model, host, source, METRIC, method="integrated")
    difference = np.array(METRIC(model.run(near)) - METRIC(model.run(host)))
    residual = edges.provenance["residual"]
    assert residual < 0.05 * np.abs(difference).max()
    np.testing.assert_allclose(np.nansum(edges.by_example[:, -1], axis=0), difference, atol=residual + 1e-4)
    np.testing.assert_allclose(np.nansum(edges.by_example[0], axis=0), difference, atol=residual + 1e-4)
    assert 8 <= edges.provenance["steps"] <= 64


def test_the_residual_is_the_largest_that_is_left_out(tiny):
    """Of two prompts, at both ends; of a way so far that no number of steps is enough, the most are taken."""
    model = tiny("llama")
    _, source = model.run_with_cache(OTHER, sites=mp.circuits.writer_sites(model))
    edges = mp.circuits.edges(model, TOKENS, source, METRIC, method="integrated")
    difference = np.array(METRIC(model.run(OTHER)) - METRIC(model.run(TOKENS)))
    ends = (edges.by_example[:, -1], edges.by_example[0])
    left_out = [np.abs(np.nansum(scores, axis=0) - difference) for scores in ends]
    np.testing.assert_allclose(edges.provenance["residual"], np.max(left_out), rtol=1e-3)
    assert np.min(left_out) < 0.9 * np.max(left_out)
    assert edges.provenance["steps"] == 64


def test_copies_in_pieces_give_the_same(tiny, monkeypatch):
    model = tiny("gemma2")
    _, whole = scored(model)
    monkeypatch.setattr("mlx_patch.circuits._host_run._TOKENS_AT_ONCE", 40)
    _, pieces = scored(model)
    # A sum in another order is off by some roundings of its largest member.
    np.testing.assert_allclose(pieces.values, whole.values, rtol=0, atol=2e-6 * np.nanmax(np.abs(whole.values)))


def test_a_parallel_block_does_not_feed_its_own_mlp(tiny):
    _, edges = scored(tiny("gpt_neox-parallel"))
    graph = edges.graph
    w, r = graph.writers.index(Writer("head", 1, 0)), graph.readers.index(Reader("mlp", 1))
    assert not graph.has_edge[w, r]
    assert np.isnan(edges.values[w, r]).all()


def test_readers_that_are_mixed_up_turn_it_red(tiny, monkeypatch):
    name = "mlx_patch.circuits._reading.one_at_a_time"
    monkeypatch.setattr(name, lambda slopes: mx.roll(_host_run.one_at_a_time(slopes), 1, axis=0))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        test_a_score_is_the_slope_of_the_metric(tiny, "llama")


def test_a_gradient_behind_the_norm_turns_it_red(tiny, monkeypatch):
    """As where the Jacobian of a norm is left out: the gradient is then that of another stream."""

    def unscaled(self, first, gradients):
        stream = self._host.activations[mp.Site("resid_pre", 1)]
        score(self, first, gradients * mx.sqrt(mx.mean(stream**2, axis=-1))[:, :, None, None])

    score = _scoring.Scoring._score
    monkeypatch.setattr(_scoring.Scoring, "_score", unscaled)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        test_a_score_is_the_slope_of_the_metric(tiny, "llama")


def test_a_gradient_along_the_skip_connection_turns_it_red(tiny, monkeypatch):
    """As where the effect of the stream that an MLP reads goes past the MLP too."""
    monkeypatch.setattr(_scoring, "read_by_mlp_alone", lambda layout: ())
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        test_a_score_is_the_slope_of_the_metric(tiny, "llama")


@pytest.mark.parametrize("name", ["nemotron_h", "nemotron-nas"])
def test_blocks_of_one_part_have_edges(tiny, name):
    """Some are a mixer alone, and some an MLP."""
    model = tiny(name)
    _, source = model.run_with_cache(OTHER, sites=mp.circuits.writer_sites(model))
    edges = mp.circuits.edges(model, TOKENS, source, METRIC)
    assert np.isfinite(edges.values[edges.graph.has_edge]).all()
    assert {writer.kind for writer in edges.graph.writers} >= {"mlp", "input"}


def test_writers_that_are_mixed_up_turn_it_red(tiny, monkeypatch):
    name = "mlx_patch.circuits._writing.one_at_a_time"
    monkeypatch.setattr(name, lambda changes: mx.roll(_host_run.one_at_a_time(changes), 1, axis=0))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        test_a_score_is_the_slope_of_the_metric(tiny, "gemma2")


REFUSALS = {
    "a method": ({"method": "integrate"}, UnknownNameError, "`method` must be a way to score edges"),
    "steps": ({"steps": 4}, PatchError, "`steps` must be left out"),
    "no step": ({"method": "integrated", "steps": 0}, PatchError, "`steps` must be 1 or more"),
    "half a step": ({"method": "integrated", "steps": 0.5}, KindError, "`steps` must be a whole number"),
    "metrics": ({"metric": [METRIC, METRIC]}, KindError, "`metric` must be one metric. Got 2"),
    "a rank": ({"metric": mp.metrics.Rank(3)}, KindError, "`metric` must have a gradient to score edges"),
    "a way to no source": (
        {"method": "integrated", "cache": mp.Ablate("zero")},
        KindError,
        "`cache` must be an ActivationCache where method",
    ),
    "an answer": (
        {"metric": mp.metrics.SequenceLogProb([3, 5])},
        KindError,
        "`metric` must read logits of the prompt alone",
    ),
    "lengths": ({"tokens": [TOKENS[0], TOKENS[0, :5]]}, ShapeError, "`tokens` must be prompts of one length"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), REFUSALS.values(), ids=REFUSALS)
def test_what_cannot_be_scored_is_refused(tiny, arguments, error, message):
    model = tiny("llama")
    _, source = model.run_with_cache(OTHER[:1], sites=mp.circuits.writer_sites(model))
    call = {"tokens": TOKENS[:1], "cache": source, "metric": METRIC, **arguments}
    with pytest.raises(error, match=message):
        mp.circuits.edges(model, **call)


def test_a_cache_without_a_writer_is_refused(tiny):
    model = tiny("llama")
    _, source = model.run_with_cache(OTHER, sites=("z", "mlp_out"))
    with pytest.raises(MissingSiteError, match="embed"):
        mp.circuits.edges(model, TOKENS, source, METRIC)


def test_a_stream_in_several_walks_is_refused(tiny):
    with pytest.raises(ArchitectureError, match="`model` must have a stream that is the sum"):
        mp.circuits.writer_sites(tiny("talkie"))
