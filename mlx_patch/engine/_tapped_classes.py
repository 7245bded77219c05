"""The classes that tapped modules have during a run, and the plain classes behind them."""

from typing import cast

import mlx.nn as nn

tapped_classes: set[type] = set()
"""Every subclass made to tap a module."""


def plain_class(module: nn.Module) -> type:
    """The class that a module has when it is not tapped."""
    cls = type(module)
    if cls in tapped_classes:
        return cast(type, cls.__base__)
    return cls
