"""Sources where prompts come in pieces or differ in length, against plain runs."""

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.sweeps import pieces_of

METRIC = mp.metrics.LogitDiff(7, 30)
LONG = [[(11 + 37 * position) % 96 for position in range(75)]]


def by_hand(model, tokens, edits):
    logits = np.array(model.run(tokens, edits, logits_at=-1))[:, 0]
    return logits[:, 7] - logits[:, 30]


@pytest.mark.parametrize("rows", [2, 75], ids=["the two", "the prompt"])
def test_an_array_at_two_far_positions_is_one_source(tiny, rows):
    """At 10 and 70 of 75 tokens, in pieces of 32: no piece holds both, and an array of two rows has one for each."""
    model = tiny("llama")
    source = 5 * mx.random.normal((1, rows, model.d_model), key=mx.random.key(3))
    edits = [mp.Replace(source).at("resid_post", layer=layer, pos=[10, 70]) for layer in (0, 1)]
    cells = {"layers": [2], "positions": [72], "edits": edits}
    with pieces_of(32):
        result = mp.sweep(model, LONG, over=edits, metric=METRIC)
        standing = mp.sweep(model, LONG, mp.Ablate("zero"), "mlp_out", metric=METRIC, **cells)
    for number, edit in enumerate(edits):
        assert result.values[number] == pytest.approx(by_hand(model, LONG, [edit]), rel=1e-4, abs=1e-4)
    zero = mp.Ablate("zero").at("mlp_out", layer=2, pos=72)
    assert standing.baseline == pytest.approx(by_hand(model, LONG, edits), rel=1e-4, abs=1e-4)
    assert standing.values.ravel() == pytest.approx(by_hand(model, LONG, [*edits, zero]), rel=1e-4, abs=1e-4)
    assert np.abs(standing.baseline - by_hand(model, LONG, [])) > 1e-3


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_an_aligned_interpolation_takes_the_source_s_positions(tiny, name):
    model, source, target = tiny(name), [5, 6, 7, 9], [5, 8, 6, 1, 9]
    alignment = mp.Alignment(source, target, [(0, 0), (1, 2), (3, 4)])
    _, cache = model.run_with_cache([source], "resid_post")
    _, own = model.run_with_cache([target], "resid_post")
    edit = mp.Interpolate(cache, 0.25).aligned(alignment).at("resid_post", layer=1)
    _, edited = model.run_with_cache([target], "resid_post", [edit])
    expected = np.array(own["resid_post", 1])
    for source_position, target_position in alignment.pairs:
        mixed = 0.75 * expected[:, target_position] + 0.25 * np.array(cache["resid_post", 1])[:, source_position]
        expected[:, target_position] = mixed
    np.testing.assert_allclose(np.array(edited["resid_post", 1]), expected, rtol=1e-5, atol=1e-5)
    strong = mp.Interpolate(cache, 0.25).aligned(alignment).with_strength(1.0).at("resid_post", layer=1)
    _, replaced = model.run_with_cache([target], "resid_post", [strong])
    assert mx.array_equal(replaced["resid_post", 1][:, 4], cache["resid_post", 1][:, 3])
