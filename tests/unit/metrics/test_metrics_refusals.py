"""What the built-in metrics refuse, and what they say."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_patch.errors import KindError, SelectionError, ShapeError, TokenError, ValueRefusedError
from mlx_patch.metrics import KL, Entropy, LogitDiff, LogProb, Prob, Rank, TokenSetProb, TopK

EVERY = (LogitDiff(1, 2), Prob(1), LogProb(1), Rank(1), Entropy(), KL(mx.zeros((1, 4))), TokenSetProb([1, 2]), TopK(1))


@pytest.mark.parametrize("metric", EVERY, ids=repr)
def test_what_is_not_logits_is_refused(metric):
    with pytest.raises(KindError, match=r"`logits` of .* must be an mx.array. Got ndarray"):
        metric(np.zeros((1, 1, 4)))
    with pytest.raises(KindError, match=r"must be floating. Got mlx.core.int32"):
        metric(mx.zeros((1, 1, 4), mx.int32))
    for shape in [(1, 4), (4,), (1, 0, 4)]:
        with pytest.raises(ShapeError, match=r"must have shape \(batch, pos, d_vocab\)"):
            metric(mx.zeros(shape))


@pytest.mark.parametrize("pos", [2, -3])
@pytest.mark.parametrize("make", [lambda pos: Entropy(pos=pos), lambda pos: TopK(1, pos=pos)])
def test_a_position_past_the_edge_is_refused(make, pos):
    with pytest.raises(SelectionError, match=f"`pos` must index the 2 positions of the logits. Got {pos}"):
        make(pos)(mx.zeros((1, 2, 4)))
    with pytest.raises(SelectionError, match=r"`pos` must index the 2 positions"):
        KL(mx.zeros((1, 2, 4)), pos=pos)


@pytest.mark.parametrize("pos", [None, "last", 1.0, True])
def test_a_position_is_one_whole_number(pos):
    with pytest.raises(KindError, match=r"`pos` must be the number of one position"):
        Prob(1, pos=pos)


@pytest.mark.parametrize("metric", [LogitDiff(4, 1), LogitDiff(1, 4), Prob(4), Rank([4]), TokenSetProb([0, 4])])
def test_a_token_past_the_vocabulary_is_refused(metric):
    with pytest.raises(SelectionError, match=r"must lie within the 4 tokens of the logits. Got 4"):
        metric(mx.zeros((1, 1, 4)))


def test_a_negative_token_is_refused():
    with pytest.raises(SelectionError, match=r"`token` must be token ids from 0. Got -1"):
        Prob(-1)


@pytest.mark.parametrize("token", [1.0, None, True, [[1]], mx.array([0.5]), mx.array([[1]]), {1}])
def test_what_is_no_answer_is_refused(token):
    with pytest.raises(KindError, match=r"`token` must be strings or token ids, one or a flat list"):
        Prob(token)


def test_no_answer_is_refused():
    with pytest.raises(ValueRefusedError, match=r"`strings` must hold an answer. Got an empty list"):
        TokenSetProb([])


def test_answers_that_are_not_one_per_example_are_refused():
    with pytest.raises(ShapeError, match=r"one per example, 3. Got 2 answers. To measure a set of tokens"):
        Prob([1, 2])(mx.zeros((3, 1, 4)))


@pytest.mark.parametrize(("right", "wrong"), [(1, 1), ([1, 2], [3, 2]), (" a", " a"), ([1, 2], 2)])
def test_an_answer_against_itself_is_refused(right, wrong):
    with pytest.raises(ValueRefusedError, match=r"`wrong` must differ from `right` in every example"):
        LogitDiff(right, wrong)


def test_text_that_is_not_resolved_is_refused():
    for metric in (LogitDiff(1, " b"), Prob(" b"), TokenSetProb(" b")):
        with pytest.raises(TokenError, match=r"Got ' b'. Use `metric.resolve\(model.tokenizer\)`"):
            metric(mx.zeros((1, 1, 4)))


def test_a_reduction_that_nobody_knows_is_refused():
    with pytest.raises(ValueRefusedError, match=r"`reduce` must be 'max' or 'sum'. Got 'mean'"):
        TokenSetProb("a", reduce="mean")


def test_a_reference_that_does_not_fit_is_refused():
    run = mx.zeros((2, 1, 4))
    with pytest.raises(ShapeError, match=r"must have the run's vocabulary, 4. Got 5"):
        KL(mx.zeros((1, 5)))(run)
    with pytest.raises(ShapeError, match=r"must have a batch of 1 or of the run's 2. Got 3"):
        KL(mx.zeros((3, 4)))(run)
    with pytest.raises(ShapeError, match=r"must have shape \(batch, pos, d_vocab\) or \(batch, d_vocab\). Got \(4,\)"):
        KL(mx.zeros(4))
    with pytest.raises(KindError, match=r"`reference_logits` must be an array of logits. Got list"):
        KL([[0.0, 1.0]])
    with pytest.raises(KindError, match=r"`reference_logits` must be floating"):
        KL(np.zeros((1, 4), np.int32))
