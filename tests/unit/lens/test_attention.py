"""Summaries and pictures of attention, on patterns that are written out."""

from dataclasses import replace

import matplotlib as mpl
import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.errors import MissingSiteError, SelectionError, ShapeError
from mlx_patch.plot import pattern_map

TOKENS = mx.array([[5, 6, 7, 5, 6]])


def cache_of(*heads, tokens=TOKENS):
    """A cache whose one layer has these patterns, each `(query, key)`."""
    pattern = mx.array(np.stack(heads)[None].astype(np.float32))
    n = tokens.shape[1]
    return mp.ActivationCache({mp.Site("pattern", 0): pattern}, tokens, tuple(range(n)), n)


def looking(*keys):
    """A pattern in which each query has one key."""
    return np.eye(5)[list(keys)]


def test_each_kind_of_head_is_told():
    previous = looking(0, 0, 1, 2, 3)
    first = looking(0, 0, 0, 0, 0)
    itself = looking(0, 1, 2, 3, 4)
    induction = looking(0, 0, 0, 1, 2)  # the second 5 looks at what followed the first one, the second 6 as well
    even = np.tri(5) / np.tri(5).sum(axis=1, keepdims=True)
    summary = mp.lens.attention_summary(cache_of(previous, first, itself, induction, even))
    np.testing.assert_allclose(summary.to_previous[0, :3], [1, 0.25, 0])
    np.testing.assert_allclose(summary.to_first[0, :3], [0.25, 1, 0])
    np.testing.assert_allclose(summary.to_self[0, :3], [0.2, 0.2, 1])
    np.testing.assert_allclose(summary.induction[0], [0, 0, 0, 1, (1 / 4 + 1 / 5) / 2], rtol=1e-6)
    np.testing.assert_allclose(summary.entropy[0, :4], 0)
    np.testing.assert_allclose(summary.entropy[0, 4], np.log([1, 2, 3, 4, 5]).mean(), rtol=1e-6)
    assert summary.strongest("induction", 1) == [(0, 3, 1.0)]
    assert "to_previous  layer.head 0.0 (1.00)" in str(summary)


def test_without_a_token_that_comes_again_there_is_no_induction():
    summary = mp.lens.attention_summary(cache_of(looking(0, 0, 1, 2, 3), tokens=mx.array([[1, 2, 3, 4, 5]])))
    assert np.isnan(summary.induction).all()
    assert summary.strongest("to_previous")[0][:2] == (0, 0)


def test_a_head_without_a_number_comes_behind_all_others():
    summary = mp.lens.attention_summary(cache_of(looking(0, 0, 1, 2, 3)))
    numbers = np.array([[np.nan, 0.0, 0.5]], np.float32)
    assert replace(summary, induction=numbers).strongest("induction", 2) == [(0, 2, 0.5), (0, 1, 0.0)]


def test_a_run_of_a_model_has_a_summary(tiny):
    tokens = mx.concatenate([TOKENS, TOKENS], axis=1)
    _, cache = tiny().run_with_cache(tokens, "pattern")
    summary = mp.lens.attention_summary(cache)
    patterns = np.stack([np.array(cache["pattern", layer]) for layer in range(3)])
    by_hand = [patterns[:, 0, :, query, query - 1] for query in range(1, 10)]
    np.testing.assert_allclose(summary.to_previous, np.mean(by_hand, axis=0), rtol=1e-5)
    repeats = [(3, 1), (4, 2), (5, 1), (5, 4), (6, 2), (6, 5), (7, 3), (8, 1), (8, 4), (8, 6), (9, 2), (9, 5), (9, 7)]
    by_hand = sum(patterns[:, 0, :, query, key] for query, key in repeats) / 7
    np.testing.assert_allclose(summary.induction, by_hand, rtol=1e-5)


def test_a_pattern_is_drawn_from_0_to_1(tiny, word_tokenizer):
    mpl.use("Agg")
    model = mp.HookedModel(tiny().model, word_tokenizer)
    _, cache = model.run_with_cache("w11 w48 w85", "pattern")
    axes = mp.lens.plot_pattern(cache, 1, 2, tokens=model.str_tokens("w11 w48 w85"))
    image = axes.images[0]
    np.testing.assert_array_equal(np.array(image.get_array()), np.array(cache["pattern", 1])[0, 2])
    assert image.get_clim() == (0, 1)
    assert any("w85" in label.get_text() for label in axes.get_yticklabels())
    _, last = model.run_with_cache("w11 w48 w85", "pattern", pos=-1)
    assert mp.lens.plot_pattern(last, 1, 2).images[0].get_array().shape == (1, cache.n_positions)


def test_all_heads_of_a_layer_are_on_one_page(tiny, tmp_path):
    _, cache = tiny().run_with_cache(TOKENS, "pattern")
    page = mp.lens.pattern_page(cache, 1, tmp_path / "heads.html", tokens=["<b>", "b", "c", "d", "e"])
    assert (tmp_path / "heads.html").read_text(encoding="utf-8") == page
    assert page.count("<td") == 4 * 5 * 5
    assert "<b>" not in page
    assert f"e (4) reads b (1): {np.array(cache['pattern', 1])[0, 3, 4, 1]:.3f}" in page


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda model: mp.lens.attention_summary(model.run_with_cache(TOKENS)[1]), MissingSiteError, "hold `pattern`"),
        (
            lambda model: mp.lens.attention_summary(model.run_with_cache(TOKENS, "pattern", pos=-1)[1]),
            SelectionError,
            "must hold all 5 positions",
        ),
        (lambda model: mp.lens.plot_pattern(cache_of(looking(0, 0, 0, 0, 0)), 0, 4), SelectionError, "`head`"),
        (
            lambda model: mp.lens.pattern_page(cache_of(looking(0, 0, 0, 0, 0)), 0, example=1),
            SelectionError,
            "`example`",
        ),
        (lambda model: pattern_map(np.zeros((2, 2)), [0], [0, 1]), ShapeError, "a row for each query"),
        (
            lambda model: mp.lens.attention_summary(cache_of(looking(0, 0, 0, 0, 0))).strongest("sinks"),
            SelectionError,
            "must be one of entropy",
        ),
    ],
)
def test_what_means_nothing_is_refused(tiny, ask, error, message):
    with pytest.raises(error, match=message):
        ask(tiny())
