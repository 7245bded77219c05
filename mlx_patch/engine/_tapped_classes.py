"""The classes that tapped modules have for the time of a run, and the classes that are their own."""

from typing import cast

import mlx.nn as nn

tapped_classes: set[type] = set()
"""Every subclass that has been made to tap a module."""


def plain_class(module: nn.Module) -> type:
    """The class that a module has when nothing taps it."""
    return cast(type, type(module).__base__) if type(module) in tapped_classes else type(module)
