"""Arguments that are numbers."""

import math
from numbers import Integral, Real
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_patch.errors import KindError, PatchError, ValueRefusedError, shown

_LARGEST = 2**63 - 1
"""What an index of an array can hold."""


def is_whole(value: object) -> bool:
    """Whether a value is a whole number: an int, numpy's, or an array of one without axes. A bool is none."""
    if isinstance(value, mx.array):
        return value.ndim == 0 and mx.issubdtype(value.dtype, mx.integer)
    if isinstance(value, np.ndarray):
        return value.ndim == 0 and value.dtype.kind in "iu" and not isinstance(value, np.ma.MaskedArray)
    return isinstance(value, Integral) and not isinstance(value, bool)


def whole_number(
    name: str,
    value: Any,
    at_least: int | None = None,
    at_most: int = _LARGEST,
    *,
    counted: str = "",
    remedy: str = "",
    kind_error: type[PatchError] = KindError,
    error: type[PatchError] = ValueRefusedError,
) -> int:
    """A whole number, as an `int`. A float is none, and no bool is: a mask is not a list of indices.

    Args:
        name: The argument's name, for the message.
        value: What a caller gave.
        at_least: The least; None is none.
        at_most: The most.
        counted: What it counts, with a blank before it: " positions".
        remedy: What to do about it, a sentence.
        kind_error: What to raise for another kind.
        error: What to raise for a number out of range.
    Raises:
        KindError: It is no whole number.
        ValueRefusedError: It is out of range.
    """
    if not is_whole(value):
        raise kind_error(
            f"`{name}` must be a whole number{counted and ' of' + counted}. Got {shown(value)}. {remedy}".rstrip()
        )
    count = int(value)
    if at_least is not None and count < at_least:
        raise error(f"`{name}` must be {at_least} or more{counted}. Got {count}. {remedy}".rstrip())
    if count > at_most or count < -_LARGEST:
        raise error(f"`{name}` must be {at_most} or less{counted}. Got {shown(count)}. {remedy}".rstrip())
    return count


def number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    remedy: str = "",
    kind_error: type[PatchError] = KindError,
    error: type[PatchError] = ValueRefusedError,
) -> float:
    """A finite number, as a `float`.

    Args:
        name: The argument's name, for the message.
        value: What a caller gave.
        above: What it must exceed; None is none.
        at_least: The least; None is none.
        remedy: What to do about it, a sentence.
        kind_error: What to raise for another kind.
        error: What to raise for a number out of range.
    Raises:
        KindError: It is not a real number. A bool is none.
        ValueRefusedError: It is NaN, infinite or out of range.
    """
    if not _is_real(value):
        raise kind_error(f"`{name}` must be a number. Got {shown(value)}. {remedy}".rstrip())
    try:
        result = float(value)
    except OverflowError:  # an int that no float is near
        result = math.inf
    if not math.isfinite(result):
        raise error(f"`{name}` must be a finite number. Got {result}. {remedy}".rstrip())
    if above is not None and result <= above:
        raise error(f"`{name}` must be above {above:g}. Got {result:g}. {remedy}".rstrip())
    if at_least is not None and result < at_least:
        raise error(f"`{name}` must be {at_least:g} or more. Got {result:g}. {remedy}".rstrip())
    return result


def _is_real(value: Any) -> bool:
    """Whether a value is a real number. An array of mlx is none: it may have a gradient, which a float has not."""
    if isinstance(value, np.ndarray):
        return value.ndim == 0 and value.dtype.kind in "iuf" and not isinstance(value, np.ma.MaskedArray)
    return isinstance(value, Real) and not isinstance(value, bool)


def share(name: str, value: Any, remedy: str = "") -> float:
    """A number between 0 and 1, which it may not be.

    Raises:
        KindError: It is no number.
        ValueRefusedError: It lies elsewhere.
    """
    result = number(name, value, remedy=remedy)
    if not 0 < result < 1:
        raise ValueRefusedError(f"`{name}` must lie between 0 and 1. Got {result:g}. {remedy}".rstrip())
    return result
