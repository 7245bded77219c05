"""Checks of the numbers that an intervention and an edit are made with."""

import mlx.core as mx
import numpy as np

from mlx_patch import arguments
from mlx_patch.errors import KindError, ShapeError

Strength = float | mx.array
"""A number, or an array without axes in float32: one that `mx.grad` differentiates by."""


def strength(name: str, value: object) -> Strength:
    """A number as a float; an array without axes as one of float32, by which `mx.grad` can differentiate.

    Raises:
        KindError: It is neither a real number nor an array of them.
        ShapeError: It is an array with axes.
        ValueRefusedError: It is NaN or infinite.
    """
    if not isinstance(value, mx.array):
        return arguments.number(name, value)
    if value.ndim:
        raise ShapeError(
            f"`{name}` must be a number, or an array without axes. Got shape {value.shape}. Take one entry, or make "
            "one edit per number."
        )
    if value.dtype == mx.bool_ or mx.issubdtype(value.dtype, mx.complexfloating):
        raise KindError(f"`{name}` must be a number. Got an array of {value.dtype}.")
    array = value.astype(mx.float32)
    number = number_of(array)
    if number is not None:
        arguments.number(name, number)
    return array


def number_of(value: Strength) -> float | None:
    """A strength as a number; None while `mx.compile` or `mx.vmap` traces it."""
    if not isinstance(value, mx.array):
        return value
    try:
        mx.eval(value)
    except ValueError:
        return None
    return float(np.array(value))


def is_exactly(value: Strength, number: float) -> bool:
    """Whether a strength is a plain number of this value. An array is not, whatever it holds: its gradient counts."""
    return isinstance(value, float) and value == number


def written(value: Strength) -> str:
    """A strength for a `repr`.

    Example:
        >>> written(0.5), written(mx.array(0.5))
        ('0.5', 'array(0.5)')
    """
    if isinstance(value, float):
        return repr(value)
    number = number_of(value)
    if number is None:
        return "array(traced)"
    return f"array({number:.9g})"
