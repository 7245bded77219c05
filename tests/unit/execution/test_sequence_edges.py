"""Answers of several tokens where runs are cut, read in full, or mixed with metrics of every kind."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.errors import SelectionError, ValueRefusedError
from mlx_patch.execution.plan import Bounds
from mlx_patch.metrics import KL, LogitDiff, LogProb, RowMetric, SequenceLogitDiff, SequenceLogProb, StartsWith

PROMPT = mx.array([[11, 48, 85, 26, 63, 4, 41]])
ANSWER = [5, 7, 9]
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


def log_prob(model, edits=(), answer=ANSWER, prompt=PROMPT):
    """By hand: one run an answer's token, each with one token more, where the edits name the prompt's positions."""
    total, tokens = 0.0, prompt.tolist()[0]
    for i, token in enumerate(answer):
        logits = model.run([[*tokens, *answer[:i]]], edits)[0, -1]
        total += (logits[token] - mx.logsumexp(logits)).item()
    return total


@pytest.mark.parametrize("executor", ["auto", "reference"])
@pytest.mark.parametrize("pos", [2, -1])
def test_an_edit_of_the_logits_module_finds_its_own_position(tiny, executor, pos):
    model = tiny()
    edit = mp.Scale(0.5).at("lm_head:output", pos=pos)
    got = mp.sweep(model, PROMPT, over=[edit], metric=SequenceLogProb(ANSWER), executor=executor)
    expected = log_prob(model, [mp.Scale(0.5).at("lm_head:output", pos=pos % 7)])
    np.testing.assert_allclose(got.values[0, 0], expected, **CLOSE)
    np.testing.assert_allclose(mp.measure(model, PROMPT, SequenceLogProb(ANSWER), [edit])[0], expected, **CLOSE)
    assert (abs(expected - log_prob(model)) > 1e-3) == (pos == -1)


def test_metrics_that_hold_arrays_go_beside(tiny):
    model = tiny()
    logits = model.run(PROMPT)
    kinds = [KL(logits, name="a"), KL(logits[..., ::-1], name="b"), SequenceLogProb(ANSWER), lambda x: x[:, 1, 3]]
    got = mp.sweep(model, PROMPT, mp.Ablate("zero"), "mlp_out", "layer", kinds)
    for i in (0, 1, 3):
        alone = mp.sweep(model, PROMPT, mp.Ablate("zero"), "mlp_out", "layer", kinds[i])
        np.testing.assert_allclose(got.values[:, i], alone.values, atol=1e-5)
    assert abs(got.values[:, 0] - got.values[:, 1]).min() > 1e-3


@dataclass(frozen=True)
class Mine(RowMetric):
    """A metric of somebody else's, with a field of a name that is used inside."""

    at: tuple[int, ...] = (0,)

    def measure_row(self, row):
        return row[:, self.at[0]]


def test_a_field_of_a_metric_means_what_its_author_means(tiny):
    model = tiny()
    got = mp.measure(model, PROMPT, [Mine((3,)), SequenceLogProb(ANSWER)])
    np.testing.assert_allclose(got[0], model.run(PROMPT)[:, -1, 3], **CLOSE)


@pytest.mark.parametrize("name", ["llama", "gpt_oss", "qwen3_next", "mamba"])
def test_long_prompts_run_in_pieces(tiny, monkeypatch, name):
    """With the answer behind the last piece, and edits that come in each."""
    model = tiny(name)
    cache = model.run_with_cache(PROMPT[:, ::-1], "resid_post")[1]
    ask = {"at": "resid_post", "over": "layer", "metric": [SequenceLogProb(ANSWER), LogProb(3)]}
    whole = mp.sweep(model, PROMPT, mp.Replace(cache), **ask, executor="reference")
    at = [mp.sweep(model, PROMPT, mp.Replace(cache), **ask, positions=pos, executor="reference") for pos in (0, -2)]
    monkeypatch.setattr("mlx_patch.execution.plan._packing.PIECE", 3)
    monkeypatch.setattr(Bounds, "__init__", _in_threes(Bounds.__init__))
    got = mp.sweep(model, PROMPT, mp.Replace(cache), **ask)
    assert got.plan.piece == 3
    np.testing.assert_allclose(got.values, whole.values, **CLOSE)
    for pos, expected in zip((0, -2), at, strict=True):
        got = mp.sweep(model, PROMPT, mp.Replace(cache), **ask, positions=pos)
        np.testing.assert_allclose(got.values, expected.values, **CLOSE)
    edit = mp.Replace(cache["resid_post", 1]).at("resid_post", layer=1, pos=slice(0, 7))
    np.testing.assert_allclose(whole.values[1, 0, 0], log_prob(model, [edit]), **CLOSE)


def _in_threes(init):
    def made(self, *args, **kwargs):
        init(self, *args, **{**kwargs, "piece": 3})

    return made


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss", "deepseek_v41"])
@pytest.mark.parametrize("site", ["pattern", "attn_scores"])
def test_an_edit_of_the_pattern_is_that_of_the_prompt_alone(tiny, name, site):
    model = tiny(name)
    edit = mp.Scale(0.25).at(site, layer=0, pos=(3, -1))
    got = mp.sweep(model, PROMPT, over=[edit], metric=[SequenceLogProb(ANSWER), LogProb(3)])
    np.testing.assert_allclose(got.values[0, 1], mp.measure(model, PROMPT, LogProb(3), [edit]), **CLOSE)
    expected = log_prob(model, [mp.Scale(0.25).at(site, layer=0, pos=(3, 6))])
    np.testing.assert_allclose(got.values[0, 0, 0], expected, **CLOSE)


def test_what_was_stopped_goes_on_to_the_same_bits(tiny, tmp_path):
    model, ask = tiny(), {"at": "mlp_out", "over": ("layer", "pos"), "metric": [SequenceLogProb(ANSWER), LogProb(3)]}
    ask |= {"memory": 1, "executor": "rows"}
    whole = mp.sweep(model, PROMPT, mp.Ablate("zero"), **ask)
    path, calls = tmp_path / "c", []

    def stop(done, of):
        calls.append(done)
        if len(calls) == 3:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        mp.sweep(model, PROMPT, mp.Ablate("zero"), **ask, checkpoint=path, progress=stop)
    got = mp.sweep(model, PROMPT, mp.Ablate("zero"), **ask, checkpoint=path)
    np.testing.assert_array_equal(got.values, whole.values)
    assert got.provenance["token_layers"] == whole.provenance["token_layers"] == got.plan.token_layers
    with pytest.raises(mp.PatchError, match="metric"):
        mp.sweep(model, PROMPT, mp.Ablate("zero"), **{**ask, "metric": SequenceLogProb([5, 7, 8])}, checkpoint=path)


def test_all_continuations_of_one_length_have_probability_1(tiny):
    model = tiny()
    every = StartsWith([(first,) for first in range(model.d_vocab)], name="first")
    two = StartsWith([(5, second) for second in range(model.d_vocab)], name="two")
    got = mp.sweep(model, PROMPT, mp.Ablate("zero"), "mlp_out", "layer", every)
    np.testing.assert_allclose(got.values, 1, atol=1e-5)
    both = mp.measure(model, PROMPT, [two, StartsWith([(5,)])], [mp.Scale(0.0).at("mlp_out", layer=0)])
    np.testing.assert_allclose(both[0], both[1], rtol=1e-4)


def test_answers_share_a_run_where_they_share_what_is_appended(tiny):
    """The cost of an answer of two tokens with another last token, or the first alone, is that of the one."""
    model, ask = tiny(), {"at": "mlp_out", "over": "layer"}
    kinds = [SequenceLogProb([5, 7]), SequenceLogProb([5, 8]), SequenceLogProb([5]), SequenceLogProb([6]), LogProb(3)]
    one = mp.plan(model, PROMPT, mp.Scale(0.0), metric=kinds[0], **ask)
    assert mp.plan(model, PROMPT, mp.Scale(0.0), metric=kinds, **ask).token_layers == one.token_layers
    both = mp.plan(model, PROMPT, mp.Scale(0.0), metric=[kinds[0], SequenceLogProb([6, 7])], **ask)
    assert both.token_layers == 2 * one.token_layers
    for kind, value in zip(kinds, mp.measure(model, PROMPT, kinds), strict=True):
        np.testing.assert_allclose(value, mp.measure(model, PROMPT, kind), **CLOSE)
    difference = mp.plan(model, PROMPT, mp.Scale(0.0), metric=SequenceLogitDiff([3], [4]), **ask)
    plain = mp.plan(model, PROMPT, mp.Scale(0.0), metric=LogitDiff(3, 4), **ask)
    assert difference.token_layers == plain.token_layers


def test_rows_of_prompts_in_groups_are_refused(tiny):
    edit = mp.Scale(0.0).at("mlp_out", layer=0, batch=0)
    with pytest.raises(ValueRefusedError, match="`batch` must be left out if prompts differ in length"):
        mp.measure(tiny(), [PROMPT, PROMPT[:, :3]], LogProb(3), [edit])


def test_a_heap_of_tokens_does_not_say_which_are_the_prompts(tiny):
    model = tiny("mixtral")
    path = "model.layers.0.block_sparse_moe.switch_mlp.down_proj:output"
    with pytest.raises(SelectionError, match="if an answer follows the prompt"):
        mp.measure(model, mx.arange(40)[None], SequenceLogProb(ANSWER), [mp.Scale(0.0).at(path)])
