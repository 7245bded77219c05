"""Means, intervals and fractions of sweeps against plain loops, closed forms and simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mlx_patch.errors import KindError, ValueRefusedError
from mlx_patch.results import bootstrap_interval, fraction_of_gap, mean_over_examples
from mlx_patch.sweeps import SweepResult

FINITE = st.floats(-100, 100, width=32)
NONE = np.zeros(1, dtype=bool)
SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(2, 5))  # cell, metric, example


def none(n):
    return np.zeros(n, dtype=bool)


@st.composite
def measured(draw):
    """Values of cells, metrics and examples, and which examples are left out of which metric."""
    shape = draw(SHAPES)
    values = draw(arrays.arrays(np.float32, shape, elements=st.one_of(FINITE, st.just(np.float32("nan")))))
    return values, draw(arrays.arrays(bool, shape[1:]))


@given(measured())
def test_means_are_those_of_a_loop(case):
    values, left_out = case
    means = mean_over_examples(values, left_out)
    for cell, metric in np.ndindex(means.shape):
        kept = [float(v) for v, out in zip(values[cell, metric], left_out[metric], strict=True) if not out]
        expected = sum(kept) / len(kept) if kept else np.nan
        assert means[cell, metric] == pytest.approx(expected, rel=1e-12, abs=1e-12, nan_ok=True)


@given(arrays.arrays(np.float32, (2, 3, 4), elements=FINITE), st.integers(0, 2**32))
@settings(max_examples=25)
def test_an_interval_lies_among_the_values_and_about_the_mean(values, seed):
    low, high = bootstrap_interval(values, none((3, 4)), 0.9, 200, seed)
    slack = 1e-4  # of sums in another order
    assert (low <= high).all()
    assert (low >= values.min(-1) - slack).all()
    assert (high <= values.max(-1) + slack).all()
    wide = bootstrap_interval(values, none((3, 4)), 0.999, 200, seed)
    assert (wide[0] <= low).all()
    assert (wide[1] >= high).all()


@given(arrays.arrays(np.float32, (2, 4), elements=FINITE), FINITE, st.integers(1, 8))
@settings(max_examples=25)
def test_intervals_move_and_stretch_with_the_values(values, shift, factor):
    low, high = bootstrap_interval(values, none(4), 0.9, 100, 0)
    moved = bootstrap_interval(values.astype(np.float64) * factor + shift, none(4), 0.9, 100, 0)
    assert np.allclose(moved, [low * factor + shift, high * factor + shift], rtol=1e-9, atol=1e-6)


def test_two_examples_have_three_resampled_means():
    """0, 1/2 and 1, with probabilities 1/4, 1/2 and 1/4."""
    values = np.array([[0.0, 1.0]])
    assert [end.tolist() for end in bootstrap_interval(values, none(2), 0.6, 4000, 0)] == [[0.0], [1.0]]
    assert [end.tolist() for end in bootstrap_interval(values, none(2), 0.4, 4000, 0)] == [[0.5], [0.5]]


def test_the_interval_of_many_examples_is_the_normal_one():
    """The mean's resampled spread is that of the examples, divided by n and not n - 1, over the root of n."""
    values = np.random.default_rng(1).normal(2.0, 3.0, size=(1, 400))
    low, high = bootstrap_interval(values, none(400), 0.95, 20_000, 0)
    half = 1.959964 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)


@pytest.mark.parametrize(("n", "expected"), [(10, 0.898), (40, 0.939)])
def test_a_95_percent_interval_covers_as_often_as_it_should(n, expected):
    """Of normal examples: where |t| with n - 1 degrees of freedom is below 1.96 sqrt((n - 1) / n)."""
    values = np.random.default_rng(0).normal(size=(4000, n))
    low, high = bootstrap_interval(values, none(n), 0.95, 2000, 0)
    assert np.mean((low < 0) & (high > 0)) == pytest.approx(expected, abs=4 * np.sqrt(0.1 * 0.9 / 4000))


def test_each_metric_keeps_its_own_examples():
    values = np.random.default_rng(0).normal(size=(5, 2, 6))
    left_out = np.zeros((2, 6), dtype=bool)
    left_out[1, :2] = True
    low, high = bootstrap_interval(values, left_out, 0.9, 300, 7)
    assert low.shape == (5, 2)
    for metric, kept in ((0, slice(None)), (1, slice(2, None))):
        alone = values[:, metric, kept]
        assert np.array_equal(bootstrap_interval(alone, none(alone.shape[1]), 0.9, 300, 7)[0], low[:, metric])
        assert np.array_equal(bootstrap_interval(alone, none(alone.shape[1]), 0.9, 300, 7)[1], high[:, metric])


def test_cells_are_resampled_in_blocks_without_a_seam(monkeypatch):
    values = np.random.default_rng(0).normal(size=(7, 3, 5))
    whole = bootstrap_interval(values, none(5), 0.9, 50, 0)
    monkeypatch.setattr("mlx_patch.results._statistics._AT_ONCE", 100)
    assert np.allclose(bootstrap_interval(values, none(5), 0.9, 50, 0), whole, rtol=1e-12)


def test_a_cell_without_a_finite_value_has_no_interval():
    low, high = bootstrap_interval(np.array([[np.nan, 1.0], [np.inf, 1.0], [1.0, 1.0]]), none(2), 0.9, 50, 0)
    assert np.isnan(low).tolist() == np.isnan(high).tolist() == [True, True, False]


@given(
    arrays.arrays(np.float32, (3, 4), elements=FINITE),
    arrays.arrays(np.float64, 4, elements=st.floats(1, 50)),
    arrays.arrays(np.float64, 4, elements=st.floats(-50, -1)),
)
def test_fractions_undo_themselves(values, clean, corrupted):
    fractions = fraction_of_gap(values, clean, corrupted)
    assert np.allclose(fractions * (clean - corrupted) + corrupted, values, atol=1e-3)
    exchanged = fraction_of_gap(values, corrupted, clean)
    assert np.allclose(fractions + exchanged, 1, atol=1e-4)


@given(arrays.arrays(np.float32, (2, 3), elements=FINITE))
def test_the_mean_of_a_result_is_that_of_its_parts(values):
    result = SweepResult(
        values, ("layer", "example"), {"layer": (0, 1), "example": (0, 1, 2)}, np.zeros(3, dtype=np.float32), {}
    )
    each = [result.sel(example=[e]).mean() for e in range(3)]
    assert np.allclose(np.mean(each, axis=0), result.mean(), atol=1e-9)


@pytest.mark.parametrize(
    ("given_", "error", "message"),
    [
        ({"level": 1.0}, ValueRefusedError, r"`level` must lie between 0 and 1. Got 1. Leave it out"),
        ({"level": np.nan}, ValueRefusedError, r"`level` must be a finite number. Got nan"),
        ({"level": "95%"}, KindError, r"`level` must be a number. Got '95%'."),
        ({"resamples": 0}, ValueRefusedError, r"`resamples` must be 1 or more. Got 0. Leave it out"),
        ({"resamples": 1.5}, KindError, r"`resamples` must be a whole number. Got 1.5."),
        ({"seed": -1}, ValueRefusedError, r"`seed` must be 0 or more. Got -1."),
        ({"seed": None}, KindError, r"`seed` must be a whole number. Got None."),
    ],
)
def test_arguments_out_of_range_are_refused(given_, error, message):
    result = SweepResult(
        np.ones((1, 2), dtype=np.float32),
        ("layer", "example"),
        {"layer": (0,), "example": (0, 1)},
        np.zeros(2, dtype=np.float32),
        {},
    )
    with pytest.raises(error, match=message):
        result.interval(**given_)


def test_one_example_cannot_be_resampled():
    with pytest.raises(
        ValueRefusedError, match=r"`interval` must have two examples or more .* Sweep a batch of prompts"
    ):
        bootstrap_interval(np.ones((1, 1)), none(1), 0.9, 10, 0)
