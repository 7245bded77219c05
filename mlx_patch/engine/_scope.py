"""`Listener`, and the stand-ins that recipes put in the globals of one call."""

from collections.abc import Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import Any, Protocol, runtime_checkable

import mlx.core as mx
import mlx.nn as nn


@runtime_checkable
class Listener(Protocol):
    """Observer of values computed inside a module's call.

    Attributes:
        module: The module that is called.
        notes: Values that a recipe keeps until the call's end.
        caches: The prompt cache of the forward pass under way, an entry a layer.
    """

    module: nn.Module
    notes: dict[str, Any]
    caches: tuple[Any, ...]

    def wants(self, event: str) -> bool:
        """Whether an event is observed."""
        ...

    def emit(self, event: str, raw: Any) -> Any:
        """The array after its observers, which may edit it."""
        ...


Scope = Mapping[str, Any]
Call = tuple[tuple[Any, ...], dict[str, Any]]


def rebound(function: FunctionType, replaced: Scope) -> FunctionType:
    """A function with a copy of its globals in which some are replaced."""
    scope = {**function.__globals__, **replaced}
    code, name = function.__code__, function.__name__
    bound = FunctionType(code, scope, name, function.__defaults__, function.__closure__)
    bound.__kwdefaults__ = function.__kwdefaults__
    return bound


class WithMethods:
    """A module whose methods run with globals in which a few functions are replaced."""

    def __init__(self, module: nn.Module, replaced: Scope):
        self.__dict__.update(_module=module, _replaced=replaced)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        if isinstance(value, MethodType) and isinstance(value.__func__, FunctionType):
            return partial(rebound(value.__func__, self._replaced), self._module)
        return value


class Mlx:
    """`mlx.core`, or another library module, with a few functions replaced."""

    def __init__(self, library: Any = mx, **replaced: Any):
        self._library = library
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)
