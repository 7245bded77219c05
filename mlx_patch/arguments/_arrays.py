"""Arguments that are arrays of real numbers."""

from typing import Any

import mlx.core as mx
import numpy as np

from mlx_patch.arguments._entries import MOST
from mlx_patch.errors import KindError, ShapeError, shown


def numeric(name: str, value: Any, remedy: str = "", allowed: str = "an array") -> Any:
    """An array of mlx or numpy that holds real numbers and hides none, as it is.

    Raises:
        KindError: It is another object; it holds complex numbers, texts, objects; or it has a mask, which everything
            here would ignore.
    """
    if isinstance(value, mx.array):
        if mx.issubdtype(value.dtype, mx.complexfloating):
            raise KindError(f"`{name}` must hold real numbers. Got {value.dtype}. {remedy}".rstrip())
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise KindError(f"`{name}` must be an array without a mask. Got a masked one. Use `.filled()` or `.data`.")
    if isinstance(value, np.ndarray | np.number):
        if value.dtype.kind not in "biuf":
            raise KindError(f"`{name}` must hold real numbers. Got {value.dtype}. {remedy}".rstrip())
        return value
    raise KindError(f"`{name}` must be {allowed}. Got {shown(value)}. {remedy}".rstrip())


def array(name: str, value: Any, remedy: str = "") -> mx.array:
    """An array of real numbers as one of mlx; float64, which mlx computes on the CPU alone, as float32.

    Raises:
        KindError: As for `numeric`.
    """
    checked = numeric(name, value, remedy)
    if isinstance(checked, mx.array):
        return checked
    return mx.array(checked)


def numpy_array(name: str, value: Any, remedy: str = "", allowed: str = "an array") -> np.ndarray:
    """An array of real numbers, or nested lists of them, as one of numpy; bfloat16, which numpy lacks, as float32.

    Raises:
        KindError: As for `numeric`; lists whose rows differ in length.
    """
    if isinstance(value, list | tuple | int | float):
        value = _of_lists(name, value)
    checked = numeric(name, value, remedy, allowed)
    if isinstance(checked, mx.array) and checked.dtype == mx.bfloat16:
        checked = checked.astype(mx.float32)
    return np.array(checked)


def _of_lists(name: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise KindError(f"`{name}` must hold numbers in rows of one length. Got {shown(value)}.") from None


def whole_array(name: str, value: Any, allowed: str, remedy: str = "", ragged: str = "") -> np.ndarray:
    """Whole numbers in an array, or in nested lists, as an array of numpy.

    Args:
        name: The argument's name, for the message.
        value: What a caller gave.
        allowed: What is allowed, for the message.
        remedy: What to do about another kind, a sentence.
        ragged: What to do about rows of several lengths, a sentence.
    Raises:
        KindError: They are none: a list that holds a bool, a float or a text, bytes, an array with a mask.
        ShapeError: The rows differ in length.
    """
    array = None
    if not _is_hidden(value):
        try:
            array = np.array(value)
        except (ValueError, RecursionError):
            raise ShapeError(
                f"`{name}` must have the same number in each row. Got rows of different lengths. {ragged}".rstrip()
            ) from None
        except (TypeError, OverflowError):
            pass
    if array is None or array.dtype.kind not in "iu":
        raise KindError(f"`{name}` must be {allowed}. Got {shown(value)}. {remedy}".rstrip())
    return array


def _is_hidden(value: Any) -> bool:
    """Whether numpy would make numbers of what holds none, or of what it hides; or would fill the memory."""
    if isinstance(value, mx.array):
        return not mx.issubdtype(value.dtype, mx.integer)
    if isinstance(value, range):
        return len(value) > MOST
    return isinstance(value, np.ma.MaskedArray | bytes | bytearray | memoryview) or _holds_bool(value)


def _holds_bool(value: Any, depth: int = 3) -> bool:
    """Whether a list of ids holds a bool, which numpy would make a number of."""
    if isinstance(value, list | tuple) and depth:
        return any(_holds_bool(entry, depth - 1) for entry in value)
    return isinstance(value, bool | np.bool_)
