"""`Ablate`: what a resample and noise draw, and what that depends on."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_patch.cache import ActivationCache
from mlx_patch.errors import ValueRefusedError
from mlx_patch.interventions import Ablate, Span
from mlx_patch.interventions._random import derangement, donors, keys
from mlx_patch.sites import Site

Z = Site("z", 1)
SPAN = Span(0, 6, 6)
X = mx.random.normal((4, 6, 3, 5), key=mx.random.key(0))


def cached(array: mx.array, positions: tuple[int, ...] | None = None, n_positions: int = 6) -> ActivationCache:
    return ActivationCache({Z: array}, mx.zeros((1, 1)), positions or range(array.shape[1]), n_positions)


def done(ablate: Ablate, x: mx.array = X, site: Site = Z, span: Span = SPAN, **choices) -> np.ndarray:
    edited = ablate.at(site, **choices).apply(x, site, span)
    assert edited is not None
    return np.array(edited)


# Resample


def test_resampling_gives_each_row_another_one_whole():
    got, x = done(Ablate("resample", seed=3)), np.array(X)
    came_from = [int(np.argmin(np.abs(x - row).sum(axis=(1, 2, 3)))) for row in got]
    np.testing.assert_array_equal(got, x[came_from])
    assert sorted(came_from) == [0, 1, 2, 3]
    assert all(row != donor for row, donor in enumerate(came_from))


@pytest.mark.parametrize("source", [None, cached(X * 2.0), X * 2.0], ids=["own", "cache", "array"])
def test_resampling_does_not_depend_on_what_is_picked(source):
    everywhere = done(Ablate("resample", source))
    ix = np.ix_([3, 1], [5, 1, 3], [2, 0], [4, 1])
    wanted = np.array(X)
    wanted[ix] = everywhere[ix]
    picked = done(Ablate("resample", source), batch=[3, 1], pos=[5, 1, 3], head=[2, 0], neuron=[4, 1])
    np.testing.assert_array_equal(picked, wanted)


def test_resampling_from_a_cache_takes_rows_of_its_batch():
    """Whatever its size."""
    other = mx.random.normal((9, 6, 3, 5))
    rows = done(Ablate("resample", cached(other)))
    assert all(any(np.array_equal(row, donor) for donor in np.array(other)) for row in rows)


def test_resampling_depends_on_the_seed_and_the_site_alone():
    x = mx.random.normal((32, 6, 3, 5))
    first = done(Ablate("resample", seed=1), x)
    np.testing.assert_array_equal(done(Ablate("resample", seed=1), x), first)
    assert not np.array_equal(done(Ablate("resample", seed=2), x), first)
    assert not np.array_equal(done(Ablate("resample", seed=1), x, Site("z", 2)), first)


@pytest.mark.parametrize("n", [2, 3, 5, 50])
def test_in_a_derangement_nothing_keeps_its_place(n):
    for seed in range(20):
        order = derangement(seed, n)
        assert sorted(order) == list(range(n))
        assert all(i != j for i, j in enumerate(order))


def test_derangements_and_donors_have_equal_chances():
    counts = np.unique([derangement(seed, 4) for seed in range(1800)], axis=0, return_counts=True)[1]
    assert len(counts) == 9
    assert counts.min() > 150  # 200 expected, with a standard deviation of 13
    counts = np.bincount(donors(0, tuple(range(1000)), 5))
    assert counts.min() > 140  # 200 expected, 13


def test_resampling_a_batch_of_one_is_refused():
    with pytest.raises(ValueRefusedError, match=r"`source` must be given if the run has one row: there is no other"):
        done(Ablate("resample"), X[:1])


# Noise


def noise(seed=0, x=X, site=Z, span=SPAN, **choices) -> np.ndarray:
    """What was added, in standard deviations of the activation."""
    return (done(Ablate("noise", seed=seed), x, site, span, **choices) - np.array(x)) / np.array(x).std()


def test_noise_is_gaussian_of_so_many_standard_deviations():
    x = 2.0 + 5.0 * mx.random.normal((2, 100, 10, 50), key=mx.random.key(5))
    added = done(Ablate("noise", scale=3.0), x, span=Span(0, 100, 100)) - np.array(x)
    assert added.std() == pytest.approx(3.0 * np.array(x).std(), rel=0.02)
    assert added.mean() == pytest.approx(0.0, abs=0.2)
    assert np.mean(np.abs(added) < 15.0) == pytest.approx(0.683, abs=0.01)


def test_the_standard_deviation_is_of_the_whole_activation():
    """Whatever is picked."""
    everywhere = noise()
    for choices, ix in [
        ({"pos": [5, 1]}, np.ix_(range(4), [5, 1])),
        ({"batch": [3, 1], "head": [2, 0]}, np.ix_([3, 1], range(6), [2, 0])),
        ({"pos": [2, 0, 5], "neuron": [4, 1], "head": 1}, np.ix_(range(4), [2, 0, 5], [1], [4, 1])),
    ]:
        wanted = np.zeros(X.shape)
        wanted[ix] = everywhere[ix]
        np.testing.assert_allclose(noise(**choices), wanted, rtol=1e-5, atol=1e-6)


def test_noise_depends_on_the_absolute_position():
    """Not on how the prompt was split."""
    whole = noise()
    for offset, length in [(0, 2), (2, 1), (3, 3)]:
        piece = noise(x=X[:, offset : offset + length], span=Span(offset, length, 6))
        np.testing.assert_allclose(piece, whole[:, offset : offset + length], rtol=1e-5, atol=1e-5)


def test_noise_of_a_row_does_not_depend_on_the_number_of_rows():
    x = mx.concatenate([X[:2], X[:2]])  # of the same standard deviation as its half
    np.testing.assert_allclose(noise(x=x)[:2], noise(x=X[:2]), rtol=1e-5, atol=1e-5)


def test_noise_differs_between_rows_positions_seeds_and_sites():
    first = noise()
    for other in (noise(seed=1), noise(site=Site("z", 2)), np.roll(first, 1, axis=0), np.roll(first, 1, axis=1)):
        assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.2  # 360 draws: 0.053 expected


def test_no_two_keys_are_equal():
    made = np.array(keys(2**64 - 5, tuple(range(20)), tuple(range(90, 290)))).reshape(-1, 2)
    assert len(np.unique(made, axis=0)) == 4000
