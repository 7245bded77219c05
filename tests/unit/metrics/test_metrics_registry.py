"""What stands for a metric: functions, classes and names; and the check on what they return."""

import functools
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import pytest

from mlx_patch.errors import KindError, ShapeError, UnknownNameError, ValueRefusedError
from mlx_patch.metrics import (
    Entropy,
    LogitDiff,
    Metric,
    Prob,
    TopK,
    _registry,
    as_metric,
    metric,
    named,
    registered,
)

LOGITS = mx.array([[[0.0, 1.0, 3.0]], [[5.0, 2.0, 1.0]]])


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    monkeypatch.setattr(_registry, "_ENTRIES", dict(_registry._ENTRIES))


def top(logits):
    """The highest logit."""
    return logits[:, -1].max(axis=-1)


@dataclass(frozen=True)
class Margin(Metric):
    token: int = 0

    def measure(self, logits):
        return logits[:, -1, self.token] - logits[:, -1].mean(axis=-1)


# --- A function works wherever a metric does


@pytest.mark.parametrize(
    "function",
    [
        top,
        lambda logits: logits[:, -1].max(axis=-1).astype(mx.bfloat16),
        lambda logits: np.array(logits)[:, -1].max(axis=-1).astype(np.float64),
        lambda logits: [float(row[-1].max()) for row in logits],
        functools.partial(lambda logits, axis: logits[:, -1].max(axis=axis), axis=-1),
    ],
)
def test_a_function_is_a_metric(function):
    wrapped = as_metric(function)
    values = wrapped(LOGITS)
    assert isinstance(wrapped, Metric)
    assert (values.tolist(), values.dtype) == ([3.0, 5.0], mx.float32)
    assert wrapped.resolve(None) is wrapped is wrapped.at_last() is as_metric(wrapped)
    assert wrapped.pos is None


def test_a_function_gives_its_name_and_its_docstring():
    assert (as_metric(top).name, as_metric(top).__doc__, repr(as_metric(top))) == (
        "top",
        "The highest logit.",
        "<metric top>",
    )
    assert as_metric(functools.partial(top)).name == "partial"


def test_a_function_that_assigns_into_its_logits_harms_nobody():
    def zeroing(logits):
        logits[:, -1] = 0.0
        return logits[:, -1].max(axis=-1)

    logits = mx.array(LOGITS)
    assert as_metric(zeroing)(logits).tolist() == [0.0, 0.0]
    assert logits.tolist() == LOGITS.tolist()


def test_a_function_can_be_differentiated():
    grad = mx.grad(lambda logits: as_metric(top)(logits).sum())(LOGITS)
    assert grad.tolist() == [[[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]]]


@pytest.mark.parametrize(
    ("returned", "shape"),
    [
        (1.0, r"\(\)"),
        (np.float32(1.0), r"\(\)"),
        (mx.array(1.0), r"\(\)"),
        (mx.zeros((2, 1)), r"\(2, 1\)"),
        (mx.zeros(1), r"\(1,\)"),
        ([1.0, 2.0, 3.0], r"\(3,\)"),
        (np.zeros((2, 2)), r"\(2, 2\)"),
    ],
)
def test_what_is_not_one_number_per_example_is_refused(returned, shape):
    def mine(logits):
        return returned

    with pytest.raises(ShapeError, match=rf"mine must return one number per example, shape \(2,\). Got {shape}"):
        as_metric(mine)(LOGITS)


def test_a_number_for_a_batch_of_one_is_refused():
    with pytest.raises(ShapeError, match=r"shape \(1,\). Got \(\). Keep the batch axis"):
        as_metric(lambda logits: 1.0)(LOGITS[:1])


@pytest.mark.parametrize("returned", [mx.array([1, 2]), np.array([True, False]), [1, 2], mx.zeros(2, mx.complex64)])
def test_what_is_not_floating_is_refused(returned):
    with pytest.raises(KindError, match=r"<lambda> must return floating numbers. Got mlx.core"):
        as_metric(lambda logits: returned)(LOGITS)


@pytest.mark.parametrize("returned", [None, "3", {"a": 1}, [[1.0], [2.0]], np.array(["a", "b"])])
def test_what_is_no_array_is_refused(returned):
    with pytest.raises(KindError, match=r"<lambda> must return an array of numbers. Got (NoneType|str|dict|list|nda)"):
        as_metric(lambda logits: returned)(LOGITS)


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        (3, r"must be a Metric, a function of logits, or a registered name. Got int: 3"),
        (None, r"Got NoneType"),
        (Entropy, r"`metric` must be a value. Got the class Entropy. Write `Entropy\(...\)`"),
        (TopK(3), r"`metric` must give one number per example. Got TopK"),
        (lambda logits, token: logits, r"a function of logits alone. Got .*<lambda>\(logits, token\)"),
    ],
)
def test_what_is_no_metric_is_refused(obj, message):
    with pytest.raises(KindError, match=message):
        as_metric(obj)


# --- Names


def test_a_registered_function_is_found_and_still_works():
    decorated = metric("my_top")(top)
    assert named("my_top") is as_metric("my_top") is decorated
    assert decorated(LOGITS).tolist() == [3.0, 5.0]
    assert (decorated.name, decorated.__doc__) == ("my_top", "The highest logit.")
    assert "my_top" in registered()


def test_a_registered_class_stays_a_class():
    assert metric("my_margin")(Margin) is Margin
    assert (named("my_margin").name, named("my_margin").token) == ("my_margin", 0)
    assert Margin(2).name == "margin(token=2)"
    assert Margin(1)(LOGITS).tolist() == pytest.approx([1 - 4 / 3, 2 - 8 / 3], abs=1e-6)


def test_a_metric_and_a_factory_are_registered():
    assert metric("mary")(Prob(2))(LOGITS).tolist() == named("mary")(LOGITS).tolist()
    assert (named("mary").name, repr(named("mary"))) == ("mary", "Prob(2)")
    made = metric("john")(lambda: LogitDiff(0, 1))
    assert (made.name, named("john")(LOGITS).tolist()) == ("john", [-1.0, 3.0])


def test_a_name_does_not_relabel_what_was_registered():
    mary = Prob(2)
    metric("mary")(mary)
    assert mary.name == "prob(2)"


def test_entropy_is_built_in():
    assert named("entropy") == Entropy()
    assert "entropy" in registered()


def test_running_a_cell_again_replaces_what_it_registered():
    def cell(sign):
        @metric("of_cell")
        def of_cell(logits):
            return sign * logits[:, -1, 0]

    cell(1)
    cell(-1)
    assert named("of_cell")(LOGITS).tolist() == [0.0, -5.0]
    metric("same")(Prob(1))
    metric("same")(Prob(1))


@pytest.mark.parametrize("other", [lambda logits: logits[:, -1, 0], Margin, Prob(2)])
def test_a_taken_name_is_refused(other):
    metric("taken")(top)
    with pytest.raises(ValueRefusedError, match=r"`name` must not be taken already. Got 'taken'"):
        metric("taken")(other)
    assert named("taken")(LOGITS).tolist() == [3.0, 5.0]


def test_a_built_in_name_is_taken():
    with pytest.raises(ValueRefusedError, match=r"Got 'entropy'"):
        metric("entropy")(top)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"`name` must be a registered metric. Got 'entropi'. Did you mean entr"):
        named("entropi")
    with pytest.raises(KindError, match=r"`name` must be a text\. Got 3"):
        named(3)


def test_a_decorator_without_a_name_is_refused():
    with pytest.raises(KindError, match=r"`name` must be a text. Got <function top .* Write `@metric\('my_metric'\)"):
        metric(top)
    with pytest.raises(ValueRefusedError, match=r"`name` must not be empty. Got ' '"):
        metric(" ")


@pytest.mark.parametrize("obj", [Prob, dict, TopK])
def test_a_class_that_cannot_be_made_is_refused(obj):
    with pytest.raises(KindError, match=rf"must be a Metric that needs no arguments. Got {obj.__name__}"):
        metric("class")(obj)


@pytest.mark.parametrize("obj", [3, TopK(2), "entropy", lambda a, b: a])
def test_what_is_no_metric_is_not_registered(obj):
    with pytest.raises(KindError, match=r"`metric` must"):
        metric("none")(obj)
    assert "none" not in registered()


def test_a_factory_that_makes_no_metric_is_refused():
    with pytest.raises(
        KindError, match=r"A registered function without arguments must return a Metric. Got 3 from 'three'"
    ):
        metric("three")(lambda: 3)
