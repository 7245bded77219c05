"""Where metrics read some tokens alone, passes compute the logits of these: the numbers are those of whole runs."""

import mlx.core as mx
import numpy as np
import pytest
from rounding import largest_logit, one_order, tolerance

import mlx_patch as mp
from mlx_patch.metrics import LogitDiff, LogProb

HOST = mx.array([[11, 48, 85, 26, 63, 4], [5, 9, 48, 77, 31, 60]])
SOURCE = mx.array([[12, 47, 80, 21, 60, 9], [6, 8, 40, 70, 30, 61]])
OF_EACH = LogitDiff([3, 9], [5, 7])
EARLIER = LogitDiff(4, 2, pos=3)


def swept(model, over=("layer", "pos"), metric=OF_EACH, at="resid_post", host=HOST, **keywords):
    _, cache = model.run_with_cache(SOURCE[:, : host.shape[1]], sites=(at,))
    return mp.sweep(model, host, mp.Replace(cache), at, over, metric, progress=False, **keywords)


def assert_whole(model, **keywords):
    """The numbers of a sweep are those of the reference, which unembeds every token."""
    fast, whole = swept(model, **keywords), swept(model, executor="reference", **keywords)
    allowed = max(1e-5, tolerance(model) * largest_logit(model, keywords.get("host", HOST)))
    np.testing.assert_allclose(fast.values, whole.values, atol=allowed)
    np.testing.assert_allclose(fast.baseline, whole.baseline, rtol=0, atol=0 if one_order() else allowed)
    assert np.abs(fast.values - np.expand_dims(fast.baseline, (0, 1))).max() > 1e-4


@pytest.mark.parametrize("name", ["llama", "gemma2", "granite", "cohere", "gpt_neox-parallel", "mixtral", "mamba"])
def test_logits_of_a_few_tokens_are_those_of_all(tiny, name):
    """With soft-caps, multipliers and biases."""
    assert_whole(tiny(name))


@pytest.mark.parametrize("metric", [[OF_EACH, EARLIER], [OF_EACH, LogProb(3)]], ids=str)
def test_metrics_of_several_positions_and_of_every_token(tiny, metric):
    assert_whole(tiny("llama"), metric=metric)


def test_packed_weights_give_the_same(tiny):
    assert_whole(tiny("llama", "4bit"))


def test_an_edit_of_the_final_norm_is_read(tiny):
    model = tiny("llama")
    edits = [mp.Scale(2.0).at("final_norm"), mp.Scale(0.5).at("final_norm", pos=-1)]
    fast = mp.sweep(model, HOST, over=edits, metric=OF_EACH, progress=False)
    expected = [np.array(OF_EACH(model.run(HOST, edit))) for edit in edits]
    np.testing.assert_allclose(fast.values, expected, atol=1e-5)


def test_an_edit_of_the_head_is_read(tiny):
    model = tiny("llama")
    edit = mp.Apply(lambda logits, site: logits * logits).at("lm_head:output")
    fast = mp.sweep(model, HOST, over=[edit], metric=OF_EACH, progress=False)
    np.testing.assert_allclose(fast.values[0], np.array(OF_EACH(model.run(HOST, edit))), atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "mamba"])
def test_prompts_in_pieces_and_behind_a_start(tiny, name):
    model = tiny(name)
    tokens = mx.array([[1 + (i * 7) % 90 for i in range(300)]])
    edits = [mp.Scale(0.5).at("resid_post", layer=layer, pos=pos) for layer in (0, 2) for pos in (3, 280)]
    fast = mp.sweep(model, tokens, over=edits, metric=LogitDiff(3, 5), progress=False)
    expected = [np.array(LogitDiff(3, 5)(model.run(tokens, edit))) for edit in edits]
    np.testing.assert_allclose(fast.values, expected, atol=2e-5)


def test_rows_of_the_wrong_token_turn_it_red(tiny, monkeypatch):
    module = "mlx_patch.model._token_logits"
    monkeypatch.setattr(f"{module}._product", lambda head, ids, normed: normed @ head.rows(ids[::-1]).T)
    monkeypatch.setattr(f"{module}._ROUNDING", 1e9)  # else the run shows that it is wrong, and all is unembedded
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_whole(tiny("llama"))
