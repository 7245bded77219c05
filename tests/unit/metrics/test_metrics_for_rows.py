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
def test_what_holds_nothing_of_examples_takes_any_number(metric):
    """What holds nothing for each example is the same for any number of them."""
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


def test_a_divergence_takes_the_list_that_run_each_returns(tiny, tokens):
    import mlx_patch as mp

    model, prompts = tiny(), [tokens[:, :5], tokens, tokens[:, 2:6]]
    swept = mp.sweep(model, prompts, mp.Ablate("zero"), "mlp_out", metric=KL(model.run_each(prompts)))
    alone = [mp.sweep(model, p, mp.Ablate("zero"), "mlp_out", metric=KL(model.run(p))).values[:, 0] for p in prompts]
    assert swept.values == pytest.approx(np.stack(alone, axis=1), abs=1e-6)
    assert swept.values.min() > 1e-4
    first = mp.measure(model, prompts, KL(model.run_each(prompts), pos=0))
    assert first == pytest.approx(np.zeros(3), abs=1e-5)
    last = [logits[:, -1] for logits in model.run_each(prompts)]
    assert mp.measure(model, prompts, KL(last)) == pytest.approx(np.zeros(3), abs=1e-5)


def test_a_list_of_logits_is_one_prompt_an_entry():
    with pytest.raises(ShapeError, match=r"one prompt's logits per entry.*Got 2 of 4 tokens in entry 1"):
        KL([mx.zeros((1, 3, 4)), mx.zeros((2, 3, 4))])
    with pytest.raises(ShapeError, match=r"all over one vocabulary.*Got 1 of 5 tokens in entry 1"):
        KL([mx.zeros((1, 3, 4)), mx.zeros((1, 3, 5))])
