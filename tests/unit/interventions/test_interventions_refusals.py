"""What interventions refuse."""

import re

import mlx.core as mx
import numpy as np
import pytest
from samples import SITE, SPAN, VECTOR, Y, done

from mlx_patch.errors import KindError, ShapeError, ValueRefusedError
from mlx_patch.interventions import (
    Add,
    Apply,
    Clamp,
    Interpolate,
    Knockout,
    Project,
    Replace,
    Scale,
    Swap,
)
from mlx_patch.sites import Site

SCORES = [Site("attn_scores", 0)]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("alpha", lambda n: Interpolate(Y, n)),
        ("scale", lambda n: Add(Y, scale=n)),
        ("factor", Scale),
        ("low", lambda n: Clamp(low=n)),
        ("high", lambda n: Clamp(high=n)),
    ],
)
def test_a_number_must_be_finite(name, make, number):
    with pytest.raises(ValueRefusedError, match=rf"`{name}` must be a finite number\. Got {number}\."):
        make(number)
    bounds = name in ("low", "high")
    for wrong in ("1", True, mx.array(1.0) if bounds else None):  # a strength may be an array, a bound may be left out
        with pytest.raises(KindError, match=rf"`{name}` must be a number\. Got {re.escape(repr(wrong))}\."):
            make(wrong)


def test_bounds_must_be_given_and_in_order():
    with pytest.raises(ValueRefusedError, match=r"`low` must be given if `high` is not\. Got None for both"):
        Clamp()
    with pytest.raises(ValueRefusedError, match=r"`low` must be at most `high`\. Got 2\.0 and 1\.0\. Swap them"):
        Clamp(2, 1)


@pytest.mark.parametrize(
    ("direction", "message"),
    [
        (mx.zeros((8,)), r"`direction` must not be zero\. Got row 0 all zero"),
        (mx.stack([VECTOR, mx.zeros((8,))]), r"`direction` must not be zero\. Got row 1 all zero"),
        (mx.stack([VECTOR, -2 * VECTOR]), r"must hold linearly independent rows\. Got 2 rows of rank 1\. Leave out"),
        (mx.random.normal((9, 8)), r"must hold linearly independent rows\. Got 9 rows of rank 8"),
        (mx.array([1.0, float("nan")]), r"`direction` must hold finite numbers\. Got NaN or infinity"),
    ],
)
def test_directions_must_span_something_each(direction, message):
    with pytest.raises(ValueRefusedError, match=message):
        Project(direction)


@pytest.mark.parametrize("shape", [(), (2, 3, 8), (0,), (0, 8)])
def test_directions_must_be_vectors(shape):
    with pytest.raises(ShapeError, match=r"`direction` must have shape \(d_model,\) or \(direction, d_model\)\. Got"):
        Project(mx.ones(shape))


def test_directions_must_have_the_size_of_the_last_axis():
    with pytest.raises(ShapeError, match=r"`direction` must have the size of the last axis, 8\. Got 3\."):
        done(Project(mx.ones((3,))))


def test_a_projection_takes_an_array_and_a_truth_value():
    with pytest.raises(KindError, match=r"`direction` must be an ActivationCache, an mx\.array .* Got list"):
        Project([1.0, 2.0])
    with pytest.raises(KindError, match=r"`onto` must be True or False\. Got 'yes'"):
        Project(VECTOR, onto="yes")


@pytest.mark.parametrize(
    ("first", "second", "error", "message"),
    [
        ([1.0, 2.0], VECTOR, KindError, r"`first` must be an ActivationCache, an mx\.array .* Got list"),
        (VECTOR, mx.ones((2, 8)), ShapeError, r"`second` must have shape \(d_model,\)\. Got \(2, 8\)"),
        (VECTOR, mx.ones((3,)), ShapeError, r"`second` must have the shape of `first`, \(8,\)\. Got \(3,\)"),
        (mx.zeros((8,)), VECTOR, ValueRefusedError, r"`first` must hold finite numbers, not all 0"),
        (VECTOR, VECTOR * mx.nan, ValueRefusedError, r"`second` must hold finite numbers, not all 0"),
        (VECTOR, 3 * VECTOR, ValueRefusedError, r"`second` must be another direction than `first`\. Got the same"),
    ],
)
def test_directions_to_swap_must_be_two(first, second, error, message):
    with pytest.raises(error, match=message):
        Swap(first, second)


def test_directions_to_swap_have_the_last_axis_s_size():
    with pytest.raises(ShapeError, match=r"`first` must have the size of the last axis, 8\. Got 2\."):
        done(Swap(mx.array([1.0, 0.0]), mx.array([0.0, 1.0])))


def test_what_is_applied_must_be_a_function_with_a_name():
    with pytest.raises(KindError, match=r"`fn` must be a function of an activation and its site\. Got float"):
        Apply(2.0)
    with pytest.raises(KindError, match=r"`name` must be a str or None\. Got int"):
        Apply(mx.sin, name=3)


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (None, KindError, r"`Apply\(bad\)` must return an mx\.array\. Got NoneType"),
        (np.zeros(8), KindError, r"must return an mx\.array\. Got ndarray"),
        (mx.zeros((8,), dtype=mx.complex64), KindError, r"must return real numbers\. Got mlx\.core\.complex64"),
        (mx.zeros((8,), dtype=mx.bool_), KindError, r"must return real numbers\. Got mlx\.core\.bool"),
        (mx.zeros((3,)), ShapeError, r"must return the shape it received, \(2, 5, 8\), or one .* Got \(3,\)"),
        (mx.zeros((1, 2, 5, 8)), ShapeError, r"or one that broadcasts to it\. Got \(1, 2, 5, 8\)"),
    ],
)
def test_what_a_function_returns_is_checked(returned, error, message):
    with pytest.raises(error, match=message):
        done(Apply(lambda activation, site: returned, name="bad"))


def test_fractions_are_not_put_among_integers():
    with pytest.raises(KindError, match=r"must return integers for an activation of mlx\.core\.int32\. Got"):
        done(Replace(mx.array(0.5)), mx.zeros((2, 5), dtype=mx.int32))


def test_only_interventions_compose():
    with pytest.raises(KindError, match=r"`\|` must join two interventions\. Got 3\. Compose first"):
        Scale(2.0) | 3


@pytest.mark.parametrize(
    ("intervention", "remedy"),
    [
        (Scale(0.0), "Use a `factor` of more than 0"),
        (Interpolate(Y, 1.5), "Use an `alpha` in 0 to 1"),
        (Clamp(low=0.0), "Give `high` alone"),
        (Project(VECTOR), "Project 'q' or 'k'"),
        (Swap(VECTOR, VECTOR[::-1]), "Swap in 'q' or 'k'"),
        (Scale(2.0) | Scale(-1.0), "Use a `factor` of more than 0"),
    ],
    ids=repr,
)
def test_an_edit_of_the_scores_does_not_unmask(intervention, remedy):
    with pytest.raises(ValueRefusedError, match=rf"`site` must not be 'attn_scores' for .* {remedy}"):
        intervention.check(SCORES)
    intervention.check([SITE])


@pytest.mark.parametrize("intervention", [Scale(0.5), Interpolate(Y, 0.5), Clamp(high=0.0)], ids=repr)
def test_an_edit_of_the_scores_that_keeps_the_mask_is_allowed(intervention):
    intervention.check(SCORES)
    masked = mx.full((2, 5, 8), -mx.inf)
    edited = intervention.at("resid_post").apply(masked, SITE, SPAN)
    assert isinstance(intervention, Interpolate) or mx.array_equal(edited, masked)


def test_a_knockout_is_at_the_scores():
    Knockout().check(SCORES)
    with pytest.raises(ValueRefusedError, match=r"`site` must be 'attn_scores' for Knockout.*use Ablate\('zero'\)"):
        Knockout().check([Site("pattern", 0)])


def test_a_direction_is_an_array_and_no_cache(tiny, tokens):
    cache = tiny().run_with_cache(tokens)[1]
    with pytest.raises(KindError, match=r"`direction` must be an mx\.array or a numpy array\. Got ActivationCache"):
        Project(cache)
