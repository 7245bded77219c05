"""What holds of every intervention: it is pure, lazy and differentiable, keeps the dtype, and composes."""

from dataclasses import FrozenInstanceError, fields

import mlx.core as mx
import numpy as np
import pytest
from samples import HALF, SITE, SPAN, VECTOR, X, Y, done

from mlx_patch.interventions import (
    Ablate,
    Add,
    Apply,
    Clamp,
    Interpolate,
    Project,
    Replace,
    Scale,
    Swap,
)

EACH = [
    Ablate("zero"),
    Ablate("mean"),
    Ablate("resample"),
    Ablate("noise", scale=3.0),
    Add(VECTOR, scale=2.0),
    Apply(lambda activation, site: mx.sin(activation)),
    Clamp(-0.5, 0.5),
    Interpolate(Y, 0.3),
    Project(VECTOR),
    Replace(Y),
    Scale(0.1),
    Scale(0.1) | Add(VECTOR),
    Swap(VECTOR, VECTOR[::-1]),
]


@pytest.mark.parametrize("second", EACH, ids=repr)
def test_a_chain_is_the_one_edit_after_the_other(second):
    """Also for what reads more than the picked part: a mean, another row, a standard deviation."""
    both = done(Scale(3.0) | second, pos=[0, 2, 3])
    assert mx.array_equal(both, done(second, done(Scale(3.0), pos=[0, 2, 3]), pos=[0, 2, 3]))


@pytest.mark.parametrize("choices", [{}, {"pos": [0, 3]}, {"batch": 1}], ids=str)
@pytest.mark.parametrize("intervention", EACH, ids=repr)
def test_an_edit_changes_neither_the_activation_nor_the_source(intervention, choices):
    x = X * 1
    alias, before, source = x, np.array(x), np.array(Y)
    edited = intervention.at("resid_post", **choices).apply(x, SITE, SPAN)
    edited[:] = 7.0
    mx.eval(edited)
    np.testing.assert_array_equal(np.array(alias), before)
    np.testing.assert_array_equal(np.array(Y), source)


@pytest.mark.parametrize("intervention", EACH, ids=repr)
def test_an_intervention_and_its_edit_cannot_be_changed(intervention):
    """A plan, a checkpoint and a provenance hold it, and say what it is."""
    for value in (intervention, intervention.at("resid_post", layer=1)):
        names = [field.name for field in fields(value)]
        assert names
        for name in names:
            with pytest.raises(FrozenInstanceError):
                setattr(value, name, None)


MAKERS = {
    "Add": lambda: Add(VECTOR * 1),
    "Interpolate": lambda: Interpolate(Y * 1, 0.3),
    "Project": lambda: Project(VECTOR * 1),
    "Replace": lambda: Replace(Y * 1),
    "Swap": lambda: Swap(VECTOR * 1, VECTOR[::-1]),
}


@pytest.mark.parametrize("name", MAKERS)
def test_what_has_arrays_is_equal_to_itself_alone(name):
    """Arrays are not compared by value: that would compute."""
    first, second = MAKERS[name](), MAKERS[name]()
    assert first == first  # noqa: PLR0124
    assert first != second
    assert len({first, second}) == 2


@pytest.mark.parametrize("choices", [{}, {"pos": 1}], ids=str)
def test_a_function_that_writes_in_place_changes_nothing_else(choices):
    def blot(activation, site):
        activation[:] = 0.0
        return activation

    x = X * 1
    assert not done(Apply(blot), x, **choices)[:, 1].any()
    assert mx.array_equal(x, X)


def test_a_source_that_is_written_to_later_is_still_what_it_was():
    source = mx.ones((8,))
    edit = Replace(source)
    source[0] = 5.0
    assert mx.array_equal(done(edit), mx.ones(X.shape))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("intervention", EACH, ids=repr)
def test_a_half_type_stays_and_is_close_to_float32(intervention, dtype):
    x = X.astype(dtype)
    got = done(intervention, x)
    assert got.dtype == dtype
    wide = done(intervention, x.astype(mx.float32)).astype(mx.float32)
    # Two roundings at most, a source's or a step's and that of the result, of numbers below 4 or in proportion.
    step = 2.0**-8 if dtype == mx.bfloat16 else 2.0**-11
    np.testing.assert_allclose(np.array(got.astype(mx.float32)), np.array(wide), rtol=2 * step, atol=4 * step)


@pytest.mark.parametrize("intervention", EACH, ids=repr)
def test_nothing_is_evaluated(intervention):
    """Under `mx.compile` an evaluation is an error."""
    got = mx.compile(lambda x: done(intervention, x))(X)
    np.testing.assert_allclose(np.array(got), np.array(done(intervention)), rtol=1e-5, atol=1e-5)


def test_gradients_pass_through():
    gradient = mx.grad(lambda x: done(Scale(3.0), x, pos=1).sum())(X)
    assert gradient[0, :, 0].tolist() == [1.0, 3.0, 1.0, 1.0, 1.0]
    by_value = mx.grad(lambda v: done(Add(v, scale=2.0), pos=1).sum())(VECTOR)
    assert by_value.tolist() == [4.0] * 8
