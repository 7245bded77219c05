"""Pairs are checked before anything runs, and measured as a loop over the bare model does."""

import mlx.core as mx
import numpy as np
import pytest
from rounding import largest_logit, tolerance

import mlx_patch as mp
from mlx_patch import HookedModel, PromptPair, PromptPairs
from mlx_patch.errors import KindError, SelectionError, ShapeError, ValueRefusedError

A, B = "w05 w11 w23", "w05 w12 w23"
FAMILIES = ["llama", "gemma2", "gpt2", "qwen3_next", "mamba"]


@pytest.fixture
def model(tiny, word_tokenizer):
    return HookedModel(tiny("llama").model, word_tokenizer)


def preferring(model, clean=A, corrupted=B):
    """A pair that the model passes: the answer gains most from the one prompt over the other, and its foil least."""
    one, other = (model.model(model.tokenize(text))[0, -1] for text in (clean, corrupted))
    order = np.argsort(np.array(one - other))
    for answer in order[::-1]:
        for foil in order:
            if one[answer] > one[foil] and other[answer] < other[foil]:
                return PromptPair(clean, corrupted, int(answer), int(foil))
    raise AssertionError


@pytest.mark.parametrize("family", FAMILIES)
def test_the_check_measures_what_a_loop_over_the_bare_model_does(tiny, word_tokenizer, family):
    model = HookedModel(tiny(family).model, word_tokenizer)
    pairs = PromptPairs(
        [PromptPair(A, B, " w30", "w31"), PromptPair("w07 w08", "w07 w09", 40, 41), PromptPair(B, A, 50, 51)]
    )
    report = pairs.check(model)
    for n, (pair, ids) in enumerate(zip(pairs, [(30, 31), (40, 41), (50, 51)], strict=True)):
        for text, found in ((pair.clean, report.clean), (pair.corrupted, report.corrupted)):
            logits = model.model(model.tokenize(text))[0, -1]
            allowed = max(1e-5, tolerance(model) * largest_logit(model, model.tokenize(text)))
            assert found[n] == pytest.approx((logits[ids[0]] - logits[ids[1]]).item(), abs=allowed)
        passes = report.clean[n] > 0 >= report.corrupted[n]
        assert (n in report.failing) == (not passes)
    assert np.array_equal(report.gap, report.clean - report.corrupted)


def test_a_preferred_pair_passes_and_the_swapped_fault_fails(model):
    """A pair that the model prefers."""
    pair = preferring(model)
    faults = [
        PromptPair(pair.clean, pair.corrupted, pair.foil, pair.answer),
        PromptPair(pair.clean, pair.clean, pair.answer, pair.foil),
    ]
    pairs = PromptPairs([pair, *faults, pair.swapped])
    report = pairs.check(model)
    assert report.failing == (1, 2)
    assert not report.ok
    assert "the clean prompt does not prefer the answer" in report.rows[1].problem
    assert report.rows[2].problem == "the corrupted prompt prefers the answer too"
    assert report.gap[2] == 0
    assert pairs.passing(report).pairs == (pair, pair.swapped)
    assert pairs.passing(report).check(model, strict=True).ok


def test_the_report_is_a_table_that_says_which_pairs_fail(model):
    pair = preferring(model)
    lines = str(PromptPairs([pair, PromptPair(A, A, pair.answer, pair.foil)], "words").check(model)).splitlines()
    assert lines[0] == "words: 1 of 2 pass. Answer minus foil, in nats."
    assert lines[1].split() == "pair clean prompt -> answer / foil clean corrupted gap".split()
    assert lines[2].endswith("passes")
    assert lines[3].endswith("FAILS: the corrupted prompt prefers the answer too")


def test_strict_names_the_pairs_that_fail(model):
    pair = preferring(model)
    pairs = PromptPairs([pair, PromptPair(A, A, pair.answer, pair.foil)])
    with pytest.raises(
        ValueRefusedError, match=r"`pairs` must all pass the check\. Got 1 of 2 that fail\. pair 1: the"
    ):
        pairs.check(model, strict=True)


class Exploding:
    """Stands where a model runs."""

    def __call__(self, *args, **kwargs):
        raise AssertionError("a forward pass")


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (("w05", "w05 w06", 3, 4), r"`corrupted` must have as many tokens as `clean`, 1\. Got 2\. Align them with mp"),
        ((A, B, "w05 w06", 4), r"`answer` must be one token.*SequenceLogitDiff\('w05 w06', 4\)"),
        ((A, B, 96, 4), r"`answer` must be a token of the model, 0 to 95\. Got 96"),
        ((A, B, "w05", 5), r"`foil` must differ from `answer`\. Got 5 for both"),
        (([1, 1, 5], [1, 1, 6], 3, 4), r"`clean` must begin with one beginning-of-sequence token\. Got two \(1\)"),
        (([5, 99], [5, 6], 3, 4), r"`tokens` must lie in 0 to 95\. Got 99"),
        (("", "w05", 3, 4), r"`prompt` must give at least one token\. Got ''"),
        ((" \n ", "w05", 3, 4), r"`prompt` must give at least one token\."),
        (("w05 \ud800", "w05", 3, 4), r"`prompt` must be text that UTF-8 can encode"),
        ((A, B, "\ud800", 4), r"An answer must be text that UTF-8 can encode\. Got '\\ud800' in it"),
        ((A, B, " ", 4), r"`answer` must give a token\. Got ' ', which gives none"),
    ],
)
def test_what_can_be_known_is_refused_before_a_forward_pass(model, monkeypatch, pair, said):
    monkeypatch.setattr(type(model), "run_each", Exploding())
    with pytest.raises(ValueRefusedError, match=f"(?s)pair 0: .*{said}"):
        PromptPairs([PromptPair(*pair)]).check(model, strict=True)


def test_a_pair_that_cannot_run_is_reported_beside_the_others(model):
    pair = preferring(model)
    report = PromptPairs([PromptPair(A, B, "w05 w06", 4), pair]).check(model)
    assert report.failing == (0,)
    assert np.isnan(report.clean[0])
    assert report.clean[1] > 0


def test_unequal_lengths_pass_where_they_are_meant(model):
    pair = preferring(model, "w05 w11 w23", "w12 w23")
    assert PromptPairs([pair]).check(model).failing == (0,)
    assert PromptPairs([pair]).check(model, unequal=True).ok


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3_next"])
def test_sweep_pair_takes_pairs_and_equals_a_sweep_by_hand(tiny, word_tokenizer, family):
    model = HookedModel(tiny(family).model, word_tokenizer)
    pair = preferring(model)
    pairs = PromptPairs([pair, pair.swapped])
    result = mp.sweep_pair(
        model, pairs.clean, pairs.corrupted, "resid_post", metric=pairs.metric, over=("layer", "pos")
    )
    tokens = [mx.concatenate([model.tokenize(t) for t in texts]) for texts in ((A, B), (B, A))]
    metric = mp.metrics.LogitDiff([pair.answer, pair.foil], [pair.foil, pair.answer])
    by_hand = mp.sweep_pair(model, *tokens, "resid_post", metric=metric, over=("layer", "pos"))
    assert np.array_equal(result.denoising.values, by_hand.denoising.values)
    assert np.ptp(result.denoising.values) > 0.01


def test_pairs_are_grouped_by_length(model):
    pairs = PromptPairs([PromptPair(A, B, 3, 4), PromptPair("w05", "w06", 3, 4), PromptPair(B, A, 3, 4)])
    assert [len(group) for group in pairs.by_length(model)] == [2, 1]
    assert pairs.by_length(model)[0].pairs == (pairs[0], pairs[2])


def test_sets_of_answers_are_measured_by_probability(model):
    pairs = PromptPairs([PromptPair(A, B, [3, 4], [5]), PromptPair(A, B, [6], [7, 8, 9])])
    report = pairs.check(model)
    p = mx.softmax(model.model(model.tokenize(A))[0, -1])
    assert report.unit == "probability"
    assert report.clean[0] == pytest.approx((p[3] + p[4] - p[5]).item(), abs=1e-6)
    assert report.clean[1] == pytest.approx((p[6] - p[7] - p[8] - p[9]).item(), abs=1e-6)


def test_pairs_are_frozen_values(model):
    ids = mx.array([[5, 6]])
    pair = PromptPair(ids, np.array([5, 7]), 3, 4)
    assert pair == PromptPair([5, 6], (5, 7), 3, 4)
    assert [one.tolist() for one in pair.tokens(model)] == [[[5, 6]], [[5, 7]]]
    with pytest.raises(AttributeError):
        pair.answer = 5
    pairs = PromptPairs([pair, pair.swapped])
    assert pairs[1:].pairs == (pair.swapped,)
    assert pair in pairs


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: PromptPair(3, A, 1, 2), KindError, r"`clean` must be a text, chat messages or token ids\. Got int"),
        (lambda: PromptPair(A, B, 1.5, 2), KindError, r"`answer` must be strings or token ids"),
        (lambda: PromptPair(A, B, "", 2), ValueRefusedError, r"`answer` must not be empty\. Got ''"),
        (lambda: PromptPair(A, B, -1, 2), SelectionError, r"`answer` must be token ids from 0\. Got -1"),
        (lambda: PromptPair(A, B, [1, 2], 2), ValueRefusedError, r"`foil` must differ from `answer`\. Got 2 for both"),
        (lambda: PromptPairs([]), ValueRefusedError, r"`pairs` must hold at least one pair\. Got none"),
        (lambda: PromptPairs(["a"]), KindError, r"`pairs` must hold PromptPairs\. Got str"),
        (lambda: mp.metrics.ProbDiff([1, 2], [2]), ValueRefusedError, r"`wrong` must share no answer with `right`"),
        (lambda: mp.metrics.ProbDiff([[1], [2]], [3]), ShapeError, r"`wrong` must hold as many sets as `right`, 2"),
        (
            lambda: mp.metrics.ProbDiff([[1], [2]], [[3], [4]])(mx.zeros((3, 1, 5))),
            ShapeError,
            r"`right` must hold one set for all or one per example, 3\. Got 2",
        ),
    ],
)
def test_other_values_are_refused(make, error, said):
    with pytest.raises(error, match=said):
        make()


def test_a_report_of_other_pairs_is_refused(model):
    pairs = PromptPairs([preferring(model)])
    with pytest.raises(ValueRefusedError, match=r"`report` must come from these pairs\. Got one of other pairs"):
        PromptPairs([pairs[0].swapped]).passing(pairs.check(model))
    bad = PromptPairs([PromptPair(A, A, 3, 4)])
    with pytest.raises(ValueRefusedError, match=r"`report` must have a pair that passed\. Got 1 that failed"):
        bad.passing(bad.check(model))
