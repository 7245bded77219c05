"""Numbers that an intervention is made with, checked when it is made."""

import math
from numbers import Integral, Real

from mlx_patch.errors import KindError, ValueRefusedError


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


def natural(name: str, given: object) -> int:
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
