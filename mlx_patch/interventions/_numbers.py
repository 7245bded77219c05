"""Numbers that an intervention is made with, checked when it is made."""

import math
from numbers import Integral, Real

import mlx.core as mx
import numpy as np

from mlx_patch.errors import KindError, ShapeError, ValueRefusedError

Strength = float | mx.array
"""A number, or an array without axes in float32: one that `mx.grad` differentiates by."""


def finite(name: str, given: object) -> float:
    """The given number as a float.

    Raises:
        KindError: It is not a real number.
        ValueRefusedError: It is NaN or infinite.
    """
    if not isinstance(given, Real) or isinstance(given, bool):
        raise KindError(f"`{name}` must be a number. Got {type(given).__name__}.")
    number = float(given)
    if not math.isfinite(number):
        raise ValueRefusedError(f"`{name}` must be a finite number. Got {number}.")
    return number


def strength(name: str, given: object) -> Strength:
    """The given number as a float; an array without axes as one of float32, by which one can differentiate.

    Raises:
        KindError: It is neither a real number nor an array of them.
        ShapeError: It is an array with axes.
        ValueRefusedError: It is NaN or infinite.
    """
    if not isinstance(given, mx.array):
        return finite(name, given)
    if given.ndim:
        raise ShapeError(
            f"`{name}` must be a number, or an array without axes. Got shape {given.shape}. Take one entry, "
            "or make one edit a number."
        )
    if given.dtype == mx.bool_ or mx.issubdtype(given.dtype, mx.complexfloating):
        raise KindError(f"`{name}` must be a number. Got an array of {given.dtype}.")
    array = given.astype(mx.float32)
    if (number := number_of(array)) is not None:
        finite(name, number)
    return array


def number_of(given: Strength) -> float | None:
    """A strength as a number; None where nobody knows it yet, as `mx.compile` and `mx.vmap` trace it."""
    if not isinstance(given, mx.array):
        return given
    try:
        mx.eval(given)
    except ValueError:
        return None
    return float(np.array(given))


def is_exactly(given: Strength, number: float) -> bool:
    """Whether a strength is a plain number of this value. An array is not, whatever it holds: its gradient counts."""
    return isinstance(given, float) and given == number


def written(given: Strength) -> str:
    """A strength for a `repr`.

    Example:
        >>> written(0.5), written(mx.array(0.5))
        ('0.5', 'array(0.5)')
    """
    if isinstance(given, float):
        return repr(given)
    number = number_of(given)
    return f"array({'traced' if number is None else f'{number:.9g}'})"


def checked_natural(name: str, given: object) -> int:
    """The given whole number, 0 or more.

    Raises:
        KindError: It is not a whole number.
        ValueRefusedError: It is negative.
    """
    if not isinstance(given, Integral) or isinstance(given, bool):
        raise KindError(f"`{name}` must be an int. Got {type(given).__name__}.")
    if given < 0:
        raise ValueRefusedError(f"`{name}` must be 0 or more. Got {given}.")
    return int(given)
