"""The stream in a box, which carries an edit between two modules to a sum that no module computes.

A block that adds to its stream several times, or a model that never calls its blocks, keeps the stream in a variable of
its own. Put in a box where it begins, it is handed on by the model's own code: adding to a box gives a box, a module
that reads one is given what is in it, and an edit there changes what is in it, for the skip connection too. The sums
are the model's own, in its order, so they stay bit for bit.
"""

from collections.abc import Iterable
from typing import Any

import mlx.core as mx


class Box:
    """An array that can be replaced while others refer to it.

    Attributes:
        array: What is in it.
    """

    def __init__(self, array: mx.array):
        self.array = array

    def __add__(self, added: mx.array) -> "Box":
        return Box(self.array + added)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.array, name)


def boxes_in(values: Iterable[Any]) -> tuple[Box, ...]:
    """The boxes among some values."""
    return tuple(value for value in values if isinstance(value, Box))


def unbox(value: Any, boxes: tuple[Box, ...]) -> Any:
    """The array in a value that is one of some boxes; any other value as it is."""
    for box in boxes:
        if value is box:
            return box.array
    return value
