"""What each intervention computes, against numpy."""

import mlx.core as mx
import numpy as np
import pytest
from samples import HALF, SITE, VECTOR, X, Y, done

from mlx_patch.errors import ShapeError
from mlx_patch.interventions import (
    Add,
    Apply,
    Chain,
    Clamp,
    Interpolate,
    Project,
    Scale,
    Swap,
)


def close(got: mx.array, wanted) -> None:
    np.testing.assert_allclose(np.array(got), np.array(wanted), rtol=1e-6, atol=1e-6)  # a few roundings of 6e-8


@pytest.mark.parametrize("alpha", [-1.0, 0.25, 0.5, 2.0])
def test_interpolation_is_a_weighted_sum(alpha):
    close(done(Interpolate(Y, alpha)), (1 - alpha) * np.array(X) + alpha * np.array(Y))


@pytest.mark.parametrize("dtype", [mx.float32, *HALF])
def test_interpolation_is_exact_at_both_ends(dtype):
    x, y = (X * 1e4).astype(dtype), Y.astype(dtype)
    assert mx.array_equal(done(Interpolate(y, 0), x), x)
    assert mx.array_equal(done(Interpolate(y, 1), x), y)


def test_interpolation_at_zero_still_refuses_what_does_not_fit():
    with pytest.raises(ShapeError, match="`source` must have the activation's shape"):
        done(Interpolate(mx.zeros((7,)), 0.0))


def test_adding_adds_as_many_times_as_it_says():
    close(done(Add(VECTOR)), np.array(X) + np.array(VECTOR))
    close(done(Add(Y, scale=-1.5)), np.array(X) - 1.5 * np.array(Y))


def test_scaling_multiplies():
    close(done(Scale(-2.5)), -2.5 * np.array(X))


@pytest.mark.parametrize("dtype", HALF)
def test_half_types_are_reckoned_in_float32_and_rounded_once(dtype):
    half = X.astype(dtype), Y.astype(dtype)  # in which 0.1 is 0.1001 or 0.09998
    x, y = (array.astype(mx.float32) for array in half)
    for intervention, wanted in [
        (Scale(0.1), 0.1 * x),
        (Add(VECTOR, scale=0.1), x + 0.1 * VECTOR),
        (Interpolate(half[1], 0.1), 0.9 * x + 0.1 * y),
    ]:
        assert mx.array_equal(done(intervention, half[0]), wanted.astype(dtype))


@pytest.mark.parametrize(("low", "high"), [(-0.5, 0.5), (None, 0.0), (0.0, None), (1.0, 1.0)])
def test_clamping_clips(low, high):
    close(done(Clamp(low, high)), np.clip(np.array(X), low, high))


@pytest.mark.parametrize("k", [1, 3, 8])
def test_projecting_takes_a_span_out_and_onto_keeps_it(k):
    """The span of the directions."""
    directions = np.random.default_rng(0).normal(size=(k, 8)) * 100.0
    x = np.array(X, dtype=np.float64)
    kept = x @ np.linalg.pinv(directions) @ directions
    close(done(Project(directions)), x - kept)
    close(done(Project(mx.array(directions), onto=True)), kept)


def test_projecting_out_leaves_nothing_along_the_direction():
    left = np.array(done(Project(VECTOR))) @ np.array(VECTOR)
    np.testing.assert_allclose(left, 0.0, atol=1e-5)


def test_the_length_of_a_direction_does_not_matter():
    close(done(Project(1e-20 * VECTOR)), done(Project(VECTOR)))


def test_swapping_exchanges_two_coordinates():
    """Those by which both unit directions, and what is orthogonal to them, make up the activation."""
    first, second = np.random.default_rng(0).normal(size=(2, 8)) * 100.0
    basis = np.stack([first / np.linalg.norm(first), second / np.linalg.norm(second)])
    coordinates = np.array(X, dtype=np.float64) @ np.linalg.pinv(basis)
    swapped = done(Swap(first, mx.array(second)))
    close(np.array(swapped, dtype=np.float64) @ np.linalg.pinv(basis), coordinates[..., ::-1])
    close(done(Swap(first, second), swapped), X)
    close(done(Project(basis), swapped), done(Project(basis)))
    close(np.linalg.norm(np.array(swapped), axis=-1), np.linalg.norm(np.array(X), axis=-1))


def test_projecting_works_on_the_picked_part_of_the_last_axis():
    got = np.array(done(Project(mx.array([1.0, 0.0])), neuron=[2, 5]))
    assert (got[..., 2] == 0).all()
    np.testing.assert_array_equal(np.delete(got, 2, axis=-1), np.delete(np.array(X), 2, axis=-1))


def test_applying_calls_with_the_picked_part_and_the_site():
    """What it calls is the function that it was given."""
    seen = []

    def negate(activation, site):
        seen.append((activation.shape, site))
        return -activation

    got = done(Apply(negate), pos=[1, 3])
    assert seen == [((2, 2, 8), SITE)]
    close(got[:, [1, 3]], -X[:, [1, 3]])
    close(got[:, [0, 2, 4]], X[:, [0, 2, 4]])


def test_a_function_with_further_arguments_is_given_the_site():
    """A `hook` that cannot be passed by its name is none of TransformerLens's."""
    arguments = []

    def noted(value, *hook):
        arguments.extend(hook)
        return value

    done(Apply(noted))
    assert arguments == [SITE]


def test_a_chain_goes_from_left_to_right():
    close(done(Scale(2.0) | Add(VECTOR)), 2 * X + VECTOR)
    close(done(Add(VECTOR) | Scale(2.0)), 2 * (X + VECTOR))


def test_chains_join_into_one_chain():
    a, b, c = Scale(2.0), Clamp(high=1.0), Scale(3.0)
    assert (a | b) | c == a | (b | c) == Chain((a, b, c))
