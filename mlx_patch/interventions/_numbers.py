"""Checks of the numbers that an intervention and an edit are made with."""

import math
from collections.abc import Iterable
from numbers import Integral, Real
from operator import index as as_int
from typing import SupportsIndex, cast

import mlx.core as mx
import numpy as np

from mlx_patch.errors import KindError, SelectionError, ShapeError, ValueRefusedError

Strength = float | mx.array
"""A number, or an array without axes in float32: one that `mx.grad` differentiates by."""


def finite(name: str, value: object) -> float:
    """A finite number as a float.

    Raises:
        KindError: It is not a real number.
        ValueRefusedError: It is NaN or infinite.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise KindError(f"`{name}` must be a number. Got {type(value).__name__}.")
    number = float(value)
    if not math.isfinite(number):
        raise ValueRefusedError(f"`{name}` must be a finite number. Got {number}.")
    return number


def strength(name: str, value: object) -> Strength:
    """A number as a float; an array without axes as one of float32, by which `mx.grad` can differentiate.

    Raises:
        KindError: It is neither a real number nor an array of them.
        ShapeError: It is an array with axes.
        ValueRefusedError: It is NaN or infinite.
    """
    if not isinstance(value, mx.array):
        return finite(name, value)
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
        finite(name, number)
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


def checked_natural(name: str, value: object) -> int:
    """A whole number of 0 or more.

    Raises:
        KindError: It is not a whole number.
        ValueRefusedError: It is negative.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise KindError(f"`{name}` must be an int. Got {type(value).__name__}.")
    if value < 0:
        raise ValueRefusedError(f"`{name}` must be 0 or more. Got {value}.")
    return int(value)


def chosen_numbers(name: str, choice: object) -> tuple[int, ...] | None:
    """One int, or several, as a tuple; None stays.

    Raises:
        SelectionError: Something is no int, is there twice, or nothing is chosen.
    """
    if choice is None:
        return None
    try:
        numbers = _whole_numbers(choice)
    except TypeError:
        raise SelectionError(f"`{name}` must be an int or a list of ints. Got {choice!r}.") from None
    if not numbers:
        raise SelectionError(f"`{name}` must choose something. Got {choice!r}. Leave it out to choose all.")
    if len(set(numbers)) < len(numbers):
        raise SelectionError(f"`{name}` must not name anything twice. Got {choice!r}.")
    return numbers


def _whole_numbers(choice: object) -> tuple[int, ...]:
    if isinstance(choice, Iterable):
        return tuple(map(whole_number, choice))
    return (whole_number(choice),)


def whole_number(value: object) -> int:
    """An int that is not a bool: a mask is not a list of indices.

    Raises:
        TypeError: It is none.
    """
    if isinstance(value, bool):
        raise TypeError
    return as_int(cast("SupportsIndex", value))
