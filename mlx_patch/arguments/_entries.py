"""Arguments of several values. What iterates is read once, and kept as a tuple."""

from collections.abc import Iterable, Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_patch.arguments._numbers import is_whole, whole_number
from mlx_patch.errors import KindError, PatchError, SelectionError, shown

MOST = 2**24
"""Entries of a range: more would fill the memory."""


def entries(
    name: str, value: Any, allowed: str, remedy: str = "", error: type[PatchError] = KindError
) -> tuple[Any, ...]:
    """What a list, a tuple, an array or an iterator holds, as a tuple. A text or bytes are no lists here.

    Args:
        name: The argument's name, for the message.
        value: What a caller gave.
        allowed: What is allowed, for the message: "a list of prompts".
        remedy: What to do about it, a sentence.
        error: What to raise.
    Raises:
        KindError: It holds nothing in an order, or hides some of it behind a mask.
    """
    is_list = isinstance(value, Iterable) and not isinstance(
        value, str | bytes | bytearray | memoryview | Mapping | np.ma.MaskedArray
    )
    if isinstance(value, np.ndarray) and value.dtype.kind not in "biufU":
        is_list = False
    is_list = is_list and not (isinstance(value, mx.array | np.ndarray) and value.ndim == 0)
    if isinstance(value, range) and not -MOST < value.stop - value.start < MOST:
        is_list = False
    if not is_list:
        raise error(f"`{name}` must be {allowed}. Got {shown(value)}. {remedy}".rstrip())
    return tuple(value)


def mapping(name: str, value: Any, allowed: str, remedy: str = "") -> Mapping[Any, Any]:
    """A dict, or what is like one.

    Raises:
        KindError: It is none.
    """
    if isinstance(value, Mapping):
        return value
    raise KindError(f"`{name}` must be {allowed}. Got {shown(value)}. {remedy}".rstrip())


def whole_numbers(
    name: str, value: Any, allowed: str, at_least: int | None = None, remedy: str = ""
) -> tuple[int, ...]:
    """Several whole numbers.

    Raises:
        KindError: They are none.
        SelectionError: One is out of range.
    """
    listed = entries(name, value, allowed, remedy)
    return tuple(whole_number(name, entry, at_least, error=SelectionError, remedy=remedy) for entry in listed)


def chosen_numbers(name: str, value: Any) -> tuple[int, ...] | None:
    """One whole number, or several, as a tuple; None stays.

    Raises:
        SelectionError: Something is no whole number, is there twice, or nothing is chosen.
    """
    if value is None:
        return None
    if isinstance(value, Iterable) and not (isinstance(value, mx.array | np.ndarray) and value.ndim == 0):
        listed = entries(name, value, "an int or a list of ints", error=SelectionError)
    else:
        listed = (value,)
    refused = SelectionError(f"`{name}` must be an int or a list of ints. Got {shown(value)}.")
    try:
        numbers = tuple(whole_number(name, entry, kind_error=SelectionError, error=SelectionError) for entry in listed)
    except SelectionError:
        raise refused from None
    if not numbers:
        raise SelectionError(f"`{name}` must choose something. Got {shown(value)}. Leave it out to choose all.")
    if len(set(numbers)) < len(numbers):
        raise SelectionError(f"`{name}` must not name anything twice. Got {shown(value)}.")
    return numbers


def place(name: str, value: Any, length: int) -> int:
    """An index, from 0 or from the end, of something of a length.

    Raises:
        SelectionError: It is no whole number, or lies outside.
    """
    index = whole_number(name, value, kind_error=SelectionError, error=SelectionError)
    if not -length <= index < length:
        raise SelectionError(f"`{name}` must lie in {-length} to {length - 1}. Got {index}.")
    return index


def checked_slice(name: str, value: slice) -> slice:
    """A slice of whole numbers.

    Raises:
        SelectionError: One of its numbers is none, or its step is 0.
    """
    for bound in (value.start, value.stop, value.step):
        if bound is not None and not is_whole(bound):
            raise SelectionError(f"`{name}` must be a slice of whole numbers. Got {shown(value)}.")
    start, stop, step = (None if bound is None else int(bound) for bound in (value.start, value.stop, value.step))
    if step == 0:
        raise SelectionError(f"`{name}` must have a step other than 0. Got {shown(value)}.")
    return slice(start, stop, step)
