"""Bootstrap intervals of several metrics along two axes, against the loop over cells."""

import numpy as np
import pytest

import mlx_patch as mp

AXES = ("layer", "pos", "metric", "example")


@pytest.fixture
def result():
    values = np.random.default_rng(0).normal(size=(2, 3, 2, 7)).astype(np.float32)
    values[..., 1, :] *= 100
    coords = {"layer": (0, 1), "pos": (0, 1, 2), "metric": ("a", "b"), "example": tuple(range(7))}
    return mp.SweepResult(values, AXES, coords, np.zeros((2, 7), np.float32), {})


def test_each_metric_of_each_cell_has_its_own_interval(result):
    low, high = result.interval(0.9, resamples=300, seed=4)
    shares = np.random.default_rng(4).multinomial(7, np.full(7, 1 / 7), size=300) / 7
    assert low.shape == high.shape == (2, 3, 2)
    for cell in np.ndindex(2, 3, 2):
        means = shares @ result.values[cell].astype(np.float64)
        assert (low[cell], high[cell]) == pytest.approx(tuple(np.quantile(means, [0.05, 0.95])), rel=1e-6)


def test_the_interval_of_one_metric_is_that_of_several(result):
    low, high = result.interval(0.9, resamples=300, seed=4)
    for number, name in enumerate(("a", "b")):
        ends = result.of_metric(name).interval(0.9, resamples=300, seed=4)
        np.testing.assert_allclose(ends, (low[..., number], high[..., number]), rtol=1e-6)


def test_what_a_metric_leaves_out_its_interval_leaves_out(result):
    clean = np.array([np.full(7, 1.0), [1.0] * 5 + [0.0] * 2], np.float32)
    with pytest.warns(mp.errors.DegenerateGapWarning):
        normalised = result.normalised(clean=clean, corrupted=np.zeros((2, 7), np.float32))
    low, high = normalised.interval(0.9, resamples=300, seed=4)
    whole = result.of_metric("a").normalised(clean=1.0, corrupted=0.0).interval(0.9, resamples=300, seed=4)
    np.testing.assert_allclose((low[..., 0], high[..., 0]), whole, rtol=1e-5)
    shares = np.random.default_rng(4).multinomial(5, np.full(5, 1 / 5), size=300) / 5
    for cell in np.ndindex(2, 3):
        means = shares @ result.values[(*cell, 1)][:5].astype(np.float64)
        ends = (low[(*cell, 1)], high[(*cell, 1)])
        assert ends == pytest.approx(tuple(np.quantile(means, [0.05, 0.95])), rel=1e-5)
