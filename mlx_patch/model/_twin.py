"""A second model on the same weights: with modules of its own, so that classes and taps are apart."""

from functools import partial
from types import MethodType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_patch.engine import plain_class


def twin(model: nn.Module) -> nn.Module:
    """A model whose modules are copies and whose arrays are handles on the same memory.

    What is done to the twin, its modules replaced or its arrays written into, is not done to the model, and the other
    way round. It costs no memory for weights. Modules that hold another twice, or each other, do so in the twin.
    """
    return _copied(model, {})


def _copied(value: Any, known: dict[int, Any]) -> Any:
    """The value with every module in it copied once; what holds no module is handed on."""
    if id(value) not in known:
        if isinstance(value, nn.Module):
            return _module(value, known)
        known[id(value)] = _other(value, known)
    return known[id(value)]


def _module(module: nn.Module, known: dict[int, Any]) -> nn.Module:
    plain = plain_class(module)
    known[id(module)] = copy = dict.__new__(plain)  # known before its parts, one of which may hold it
    for name, part in module.items():
        dict.__setitem__(copy, name, _copied(part, known))
    for name, part in vars(module).items():
        vars(copy)[name] = _copied(part, known)
    return copy


def _other(value: Any, known: dict[int, Any]) -> Any:
    match value:
        case mx.array():
            return value[...]  # another handle: writing into an array changes its handle alone
        case dict() if type(value) is dict:
            return {name: _copied(part, known) for name, part in value.items()}
        case list() | tuple() | set() if type(value) in (list, tuple, set):
            return type(value)(_copied(part, known) for part in value)
        case MethodType():
            return MethodType(value.__func__, _copied(value.__self__, known))
        case partial():
            keywords = {name: _copied(part, known) for name, part in value.keywords.items()}
            return partial(value.func, *(_copied(part, known) for part in value.args), **keywords)
    return value
