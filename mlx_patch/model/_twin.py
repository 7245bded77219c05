"""A second model on the same weights, with modules of its own, so that its classes and taps are separate."""

from functools import partial
from types import MethodType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_patch.engine import plain_class


def twin(model: nn.Module) -> nn.Module:
    """A model whose modules are copies and whose arrays are handles on the same memory.

    Changes to the twin, modules replaced or arrays written into, do not change the model, and the other way round. It
    costs no memory for weights. Modules that hold another twice, or each other, do so in the twin.
    """
    return _copy(model, {})


def _copy(value: Any, copies: dict[int, Any]) -> Any:
    """The value with every module in it copied once; a value without modules or arrays is itself."""
    if id(value) not in copies:
        if isinstance(value, nn.Module):
            return _copy_module(value, copies)
        copies[id(value)] = _copy_value(value, copies)
    return copies[id(value)]


def _copy_module(module: nn.Module, copies: dict[int, Any]) -> nn.Module:
    copy = dict.__new__(plain_class(module))
    copies[id(module)] = copy  # before its children, which may hold the module
    for name, child in module.items():
        dict.__setitem__(copy, name, _copy(child, copies))
    for name, attribute in vars(module).items():
        vars(copy)[name] = _copy(attribute, copies)
    return copy


def _copy_value(value: Any, copies: dict[int, Any]) -> Any:
    match value:
        case mx.array():
            return value[...]  # another handle: writing into an array changes its handle alone
        case dict() if type(value) is dict:
            return {name: _copy(item, copies) for name, item in value.items()}
        case list() | tuple() | set() if type(value) in (list, tuple, set):
            return type(value)(_copy(item, copies) for item in value)
        case MethodType():
            return MethodType(value.__func__, _copy(value.__self__, copies))
        case partial():
            keywords = {name: _copy(argument, copies) for name, argument in value.keywords.items()}
            arguments = [_copy(argument, copies) for argument in value.args]
            return partial(value.func, *arguments, **keywords)
    return value
