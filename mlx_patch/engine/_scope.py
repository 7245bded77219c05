"""What recipes share: who listens, and a stand-in for `mlx.core` in the globals of one call."""

from collections.abc import Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import Any, Protocol, runtime_checkable

import mlx.core as mx
import mlx.nn as nn


@runtime_checkable
class Listener(Protocol):
    """Who wants to know what happens inside.

    Attributes:
        module: The module that is called.
        notes: What a recipe keeps until the call's end.
        caches: The prompt cache of the forward pass under way, an entry a layer.
    """

    module: nn.Module
    notes: dict[str, Any]
    caches: tuple[Any, ...]

    def wants(self, event: str) -> bool:
        """Whether anyone waits for an event."""
        ...

    def emit(self, event: str, raw: Any) -> Any:
        """The array after those who wait for it."""
        ...


Scope = Mapping[str, Any]
Call = tuple[tuple[Any, ...], dict[str, Any]]


def rebound(function: FunctionType, replaced: Scope) -> FunctionType:
    """A function with a copy of its globals in which some are ours."""
    scope = {**function.__globals__, **replaced}
    bound = FunctionType(function.__code__, scope, function.__name__, function.__defaults__, function.__closure__)
    bound.__kwdefaults__ = function.__kwdefaults__
    return bound


class WithMethods:
    """A module whose own methods run with globals in which a few functions are ours."""

    def __init__(self, module: nn.Module, replaced: Scope):
        self.__dict__.update(_module=module, _replaced=replaced)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        own = isinstance(value, MethodType) and isinstance(value.__func__, FunctionType)
        return partial(rebound(value.__func__, self._replaced), self._module) if own else value


class Mlx:
    """`mlx.core`, or a part of it, with a few functions that are ours."""

    def __init__(self, part: Any = mx, **ours: Any):
        self._part = part
        self.__dict__.update(ours)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)
