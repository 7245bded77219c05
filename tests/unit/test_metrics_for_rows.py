"""A metric for some of the examples is the metric of all of them, at those."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import pytest

from mlx_patch.errors import ShapeError
from mlx_patch.metrics import KL, Entropy, LogitDiff, LogProb, Metric, Prob, Rank, TokenSetProb, as_metric

LOGITS = mx.random.normal((4, 3, 9), key=mx.random.key(0))
REFERENCE = mx.random.normal((4, 3, 9), key=mx.random.key(1))


@dataclass(frozen=True)
class Highest(Metric):
    """A metric that knows nothing of examples."""

    def measure(self, logits):
        return logits[:, -1].max(axis=-1)


@pytest.mark.parametrize("rows", [(2,), (3, 0), (0, 1, 2, 3)])
@pytest.mark.parametrize(
    "metric",
    [
        LogitDiff([1, 2, 3, 4], 0),
        LogitDiff([1, 2, 3, 4], [5, 6, 7, 8], pos=0),
        Prob([1, 2, 3, 4]),
        LogProb((4, 3, 2, 1), name="mine"),
        Rank([1, 2, 3, 4]),
        KL(REFERENCE),
        KL(REFERENCE[:1], pos=1),
        Prob(5),
        Entropy(),
        TokenSetProb([1, 2, 3, 4, 5]),
        Highest(),
        as_metric(lambda logits: logits[:, 0, 0]),
    ],
)
def test_some_rows_are_measured_as_they_are_among_all(metric, rows):
    some = metric.for_rows(rows, 4)
    index = mx.array(list(rows))
    np.testing.assert_allclose(np.array(some(LOGITS[index])), np.array(metric(LOGITS)[index]), rtol=1e-6)
    assert (some.name, some.pos) == (metric.name, metric.pos)


@pytest.mark.parametrize("metric", [Prob(5), KL(REFERENCE[:1]), Entropy(), TokenSetProb([1, 2]), Highest()])
def test_what_holds_nothing_for_each_example_is_the_same_for_any_number_of_them(metric):
    some = metric.for_rows((6,), 7)
    np.testing.assert_array_equal(np.array(some(LOGITS)), np.array(metric(LOGITS)))


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (Prob([1, 2]), r"`token` must hold one answer for all or one per example, 3\. Got 2 answers\."),
        (LogitDiff(0, [1, 2]), r"`wrong` must hold one answer for all or one per example, 3\. Got 2 answers\."),
        (KL(REFERENCE), r"`reference_logits` must have a batch of 1 or of all 3 examples\. Got 4\."),
    ],
)
def test_answers_for_another_number_of_examples_are_refused(metric, message):
    with pytest.raises(ShapeError, match=message):
        metric.for_rows((0,), 3)
