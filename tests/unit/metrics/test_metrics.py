"""Metrics against closed forms and against numpy in float64."""

import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlx_patch.metrics import KL, Entropy, LogitDiff, LogProb, Metric, Prob, Rank, TokenSetProb

# Softmax gives these probabilities exactly: 1/2, 1/4, 1/8, 1/8.
HALVES = mx.log(mx.array([0.5, 0.25, 0.125, 0.125]))
LOG2 = math.log(2)
EVERY = (LogitDiff(1, 2), Prob(1), LogProb(1), Rank(1), Entropy(), KL(mx.zeros((1, 4))), TokenSetProb([1, 2]))


def one(row) -> mx.array:
    """Logits of one example at one position."""
    return mx.array(row)[None, None]


def names(value) -> str | None:
    return type(value).__name__ if isinstance(value, Metric) else None


# --- Closed forms


def test_logit_diff_is_right_minus_wrong():
    assert LogitDiff(0, 2)(one([5.0, 0.0, 3.0, 1.0])).item() == 2.0
    assert LogitDiff(2, 0)(one([5.0, 0.0, 3.0, 1.0])).item() == -2.0


def test_probabilities_of_halves():
    assert [round(Prob(i)(one(HALVES)).item(), 6) for i in range(4)] == [0.5, 0.25, 0.125, 0.125]
    assert LogProb(1)(one(HALVES)).item() == pytest.approx(-2 * LOG2, abs=1e-6)


def test_entropy_is_in_nats():
    # 1/2 log 2 + 1/4 log 4 + 2 * 1/8 log 8 = 1.75 log 2
    assert Entropy()(one(HALVES)).item() == pytest.approx(1.75 * LOG2, abs=1e-6)
    assert Entropy()(one([0.0] * 8)).item() == pytest.approx(3 * LOG2, abs=1e-6)


def test_kl_is_the_reference_against_the_run():
    # Under the reference (1/2, 1/4, 1/8, 1/8) against the uniform run: log 4 - 1.75 log 2. The other way round it is
    # 1/4 (log 1/2 + log 1 + 2 log 2) = 1/4 log 2: the direction shows.
    assert KL(one(HALVES))(one([0.0] * 4)).item() == pytest.approx(0.25 * LOG2, abs=1e-6)
    reference, run = one([0.0, 0.0]), one([math.log(0.25), math.log(0.75)])
    assert KL(reference)(run).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-6)
    assert KL(run)(reference).item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5), abs=1e-6)


def test_kl_is_infinite_where_an_allowed_token_is_excluded():
    """The reference allows it, and the run excludes it."""
    allowed, excluded = one([0.0, 0.0]), one([0.0, -math.inf])
    assert KL(allowed)(excluded).item() == math.inf
    assert KL(excluded)(allowed).item() == pytest.approx(LOG2, abs=1e-6)


def test_rank_counts_ties_against_the_answer():
    logits = one([3.0, 5.0, 3.0, 1.0])
    assert [Rank(i)(logits).item() for i in range(4)] == [2.0, 0.0, 2.0, 3.0]


def test_rank_of_nan_is_nan():
    assert math.isnan(Rank(1)(one([math.nan, 1.0])).item())


def test_token_set_takes_the_highest_or_the_sum():
    assert TokenSetProb([1, 2])(one(HALVES)).item() == pytest.approx(0.25)
    assert TokenSetProb([1, 2, 1], reduce="sum")(one(HALVES)).item() == pytest.approx(0.375)
    assert TokenSetProb(0)(one(HALVES)).item() == pytest.approx(0.5)


def test_a_token_without_probability_counts_nothing():
    logits = one([0.0, 0.0, -math.inf])
    assert Entropy()(logits).item() == pytest.approx(LOG2, abs=1e-6)
    assert KL(logits)(logits).item() == 0.0
    assert np.isfinite(np.array(mx.grad(lambda x: Entropy()(x).sum())(logits))).all()


def test_large_logits_do_not_overflow():
    logits = one([1000.0, 1000.0, -1000.0])
    assert Prob(0)(logits).item() == pytest.approx(0.5, abs=1e-6)
    assert LogProb(2)(logits).item() == pytest.approx(-2000 - LOG2, rel=1e-6)


# --- Positions and batches


@pytest.mark.parametrize("metric", EVERY, ids=names)
def test_the_last_position_is_read_unless_told(metric):
    first, last = mx.array([0.0, 1.0, 2.0, 3.0]), mx.array([0.0, -4.0, 0.5, 1.0])
    both = mx.stack([first, last])[None]
    assert metric(both).item() == metric(last[None, None]).item() != metric(first[None, None]).item()
    assert metric.pos == -1


@pytest.mark.parametrize("pos", [0, -2])
def test_another_position_is_read_when_told(pos):
    logits = mx.array([[[1.0, 0.0], [7.0, 0.0]]])
    assert LogitDiff(0, 1, pos=pos)(logits).item() == 1.0
    assert LogitDiff(0, 1, pos=pos).at_last()(logits[:, :1]).item() == 1.0


def test_at_last_keeps_the_label_and_the_reference():
    run = mx.array([[[1.0, 0.0], [7.0, 0.0]]])
    moved = KL(run, pos=0).at_last()
    assert (moved.pos, moved.name) == (-1, "kl(pos=0)")
    assert moved(run[:, :1]).item() == 0.0


def test_each_example_has_its_own_answer():
    logits = mx.array([[[1.0, 2.0, 4.0]], [[8.0, 16.0, 32.0]]])
    assert LogitDiff([0, 2], [1, 1])(logits).tolist() == [-1.0, 16.0]
    assert LogitDiff(mx.array([2, 0]), 1)(logits).tolist() == [2.0, -8.0]
    assert Rank(np.array([0, 1]))(logits).tolist() == [2.0, 1.0]
    assert LogitDiff([2], (0,))(logits).tolist() == [3.0, 24.0]


def test_a_reference_of_one_serves_every_example():
    run = mx.array([[[0.0, 0.0]], [[1.0, 0.0]]])
    values = KL(run[:1])(run)
    assert values[0].item() == 0.0
    assert values[1].item() > 0.0
    assert KL(run)(run).tolist() == KL(run[:, 0])(run).tolist() == KL(np.array(run))(run).tolist() == [0.0, 0.0]


def test_a_reference_without_positions_serves_any():
    run = mx.array([[[0.0, 1.0], [2.0, 0.0]]])
    assert KL(run[:, 1], pos=1)(run).item() == 0.0
    assert KL(run[:, 1], pos=0)(run).item() > 0.0


def test_a_reference_does_not_change_with_the_array_it_came_from():
    run = mx.array([[[0.0, 1.0]]])
    metric = KL(run)
    run[:, :, 0] = 5.0
    assert metric(mx.array([[[0.0, 1.0]]])).item() == 0.0


# --- Properties

PATIENT = settings(deadline=None)  # a shared machine may be slow
ROWS = hnp.arrays(np.float32, (2, 1, 7), elements=st.floats(-30, 30, width=32))


def softmax64(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


@PATIENT
@given(ROWS)
def test_probabilities_are_those_of_float64(logits):
    p = softmax64(logits)[:, 0]
    run = mx.array(logits)
    # eps is 6e-8; a logit of 30 rounds in the exponent's argument to 30 eps, which exp turns into a relative error.
    np.testing.assert_allclose(np.array(Prob(3)(run)), p[:, 3], rtol=1e-5)
    np.testing.assert_allclose(np.array(LogProb(3)(run)), np.log(p[:, 3]), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.array(Entropy()(run)), -(p * np.log(p)).sum(-1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.array(TokenSetProb([1, 5], "sum")(run)), p[:, [1, 5]].sum(-1), rtol=1e-5)
    assert TokenSetProb(list(range(7)), "sum")(run).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)


@PATIENT
@given(ROWS, ROWS)
def test_kl_is_not_negative_and_zero_for_itself(reference, run):
    p, q = softmax64(reference)[:, 0], softmax64(run)[:, 0]
    values = np.array(KL(reference)(mx.array(run)))
    np.testing.assert_allclose(values, (p * np.log(p / q)).sum(-1), rtol=1e-4, atol=1e-5)
    assert (values >= -1e-5).all()
    assert KL(run)(mx.array(run)).tolist() == [0.0, 0.0]


@PATIENT
@given(ROWS, st.floats(-20, 20))
def test_a_constant_added_to_all_logits_changes_nothing(logits, constant):
    run, shifted = mx.array(logits), mx.array(logits + np.float32(constant))
    for metric in (LogitDiff(0, 1), Prob(2), LogProb(2), Entropy(), KL(np.zeros((1, 7), np.float32))):
        assert metric(run).tolist() == pytest.approx(metric(shifted).tolist(), rel=1e-4, abs=1e-4)


@PATIENT
@given(ROWS)
def test_rank_is_a_place_in_the_order(logits):
    row = logits[0, 0]
    expected = [int((row >= row[i]).sum()) - 1 for i in range(7)]
    assert [Rank(i)(mx.array(logits))[0].item() for i in range(7)] == expected


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
@pytest.mark.parametrize("metric", EVERY, ids=names)
@settings(PATIENT, max_examples=20)
@given(logits=hnp.arrays(np.float32, (2, 1, 4), elements=st.floats(-9, 9, width=16)))
def test_half_precision_logits_are_measured_in_float32(metric, dtype, logits):
    half = mx.array(logits).astype(dtype)
    measured = metric(half)
    assert measured.dtype == mx.float32
    assert measured.tolist() == metric(half.astype(mx.float32)).tolist()


def test_a_large_vocabulary_keeps_its_precision():
    # MLX's own CPU sums are off by 2e-4 here; sums of sums are not. 1e-5 is 30 eps times the largest logit's size.
    rng = np.random.default_rng(0)
    logits = (4 * rng.standard_normal((1, 1, 151_936))).astype(np.float32)
    other = logits + (0.01 * rng.standard_normal(logits.shape)).astype(np.float32)
    p, q = softmax64(logits)[0, 0], softmax64(other)[0, 0]
    run = mx.array(logits)
    assert Prob(77)(run).item() == pytest.approx(p[77], rel=1e-5)
    assert LogProb(77)(run).item() == pytest.approx(math.log(p[77]), abs=1e-5)
    assert Entropy()(run).item() == pytest.approx(-(p * np.log(p)).sum(), rel=1e-5)
    divergence = (p * np.log(p / q)).sum()  # 5e-5 nats
    assert KL(run)(mx.array(other)).item() == pytest.approx(divergence, abs=2e-6)


def test_the_gradient_of_a_logit_diff_is_one_and_minus_one():
    grad = mx.grad(lambda x: LogitDiff(0, 2)(x).sum())(mx.zeros((1, 2, 3)))
    assert grad.tolist() == [[[0.0, 0.0, 0.0], [1.0, 0.0, -1.0]]]
    assert [metric.differentiable for metric in EVERY] == [not isinstance(metric, Rank) for metric in EVERY]


# --- Labels


@pytest.mark.parametrize(
    ("metric", "label", "shown"),
    [
        (LogitDiff(" Mary", " John"), "logit_diff(' Mary', ' John')", "LogitDiff(' Mary', ' John')"),
        (Prob(3, pos=2), "prob(3, pos=2)", "Prob(3, pos=2)"),
        (LogProb([1, 2]), "log_prob([1, 2])", "LogProb([1, 2])"),
        (Rank([1, 2, 3, 4, 5]), "rank(<5 of them>)", "Rank(<5 of them>)"),
        (Entropy(), "entropy", "Entropy()"),
        (KL(mx.zeros((2, 3, 5))), "kl", "KL(<logits (2, 5)>, pos=-1)"),
        (TokenSetProb("a", "sum"), "token_set_prob('a', reduce='sum')", "TokenSetProb('a', reduce='sum')"),
        (Prob(3, name="p"), "p", "Prob(3)"),
    ],
)
def test_a_label_says_what_is_measured(metric, label, shown):
    assert (metric.name, repr(metric)) == (label, shown)


def test_metrics_are_frozen_values():
    assert LogitDiff(1, [2, 3]) == LogitDiff(1, (2, 3)) != LogitDiff(1, [3, 2])
    assert hash(Prob(1)) == hash(Prob(1))
    with pytest.raises(AttributeError, match="cannot assign to field"):
        Prob(1).token = 2
