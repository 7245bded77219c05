"""What a model may be like so that no run of it means anything, or edits stay: active dropout, compiled parts.

`mx.compile` runs a function's Python code once and keeps what it did: an edit that is traced stays for ever, and in
what was traced before there is no module to tap. So while hooks are in a model that compiles parts of itself, compiling
is switched off, for the whole process; what is compiled is then run as it is written.
"""

import dis
import gc
import inspect
from collections.abc import Iterable, Iterator
from functools import cache, partial
from itertools import pairwise
from types import CodeType, FunctionType, MethodType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_patch.engine._tapped_classes import plain_class
from mlx_patch.errors import KindError

_Compiled: type = type(mx.compile(lambda: mx.zeros(())))

_CHANCES = ("p", "rate", "prob", "dropout", "drop_prob", "dropout_rate")
"""What modules that draw random numbers call the probability with which they do."""


def refuse_random(model: nn.Module, parts: Iterable[Any] | None = None) -> None:
    """Refuse a model that draws random numbers because it is in training mode.

    Args:
        model: The model.
        parts: Its `parts_of`, where they are known.
    Raises:
        KindError: With the module's path.
    """
    for part in parts_of(model) if parts is None else parts:
        if isinstance(part, nn.Module) and _draws(type(part)) and part.training and not _never(part):
            raise KindError(
                f"`model` must not draw random numbers. Got one in training mode, with an active {_name(part)} at "
                f"{_path(model, part)!r}: each run would give other numbers. Call `model.model.eval()` first."
            )


def _path(model: nn.Module, part: nn.Module) -> str:
    return next((path for path, module in model.named_modules() if module is part), "?") or "its root"


def compiles(parts: Iterable[Any]) -> bool:
    """Whether a model of these parts may call modules inside a function that it compiles."""
    for part in parts:
        if not isinstance(part, nn.Module):
            if any(_reaches_modules(function, set()) for function in gc.get_referents(part)):
                return True
        elif _compiles_itself(type(part)):
            return True
    return False


def parts_of(model: nn.Module) -> list[Any]:
    """The modules and compiled functions in a model, each once. Every run looks, so it must be quick."""
    found: list[Any] = []
    seen: set[int] = set()
    left: list[Any] = [model]
    while left:
        value = left.pop()
        kind = _kind(type(value))
        if kind is None or id(value) in seen:
            continue
        seen.add(id(value))
        if kind is nn.Module or kind is _Compiled:
            found.append(value)
        if kind is nn.Module or kind is dict:
            left += value.values()
        if kind is nn.Module:
            left += vars(value).values()
        if kind is list:
            left += value
    return found


@cache
def _kind(cls: type) -> type | None:
    """What a value of a class is here: a module, a compiled function, a list or a tuple, a dict, or a leaf."""
    if issubclass(cls, nn.Module):
        return nn.Module
    if issubclass(cls, list | tuple):
        return list
    if issubclass(cls, dict):
        return dict
    return _Compiled if cls is _Compiled else None


def _name(module: nn.Module) -> str:
    return plain_class(module).__name__


@cache
def _draws(cls: type) -> bool:
    """Whether a class's call draws random numbers in training mode."""
    return {"random", "training"} <= _names(cls, "__call__")


@cache
def _compiles_itself(cls: type) -> bool:
    """Whether a method of a class, down to `nn.Module`, mentions `mx.compile`."""
    own = cls.__mro__[: cls.__mro__.index(nn.Module)] if nn.Module in cls.__mro__ else ()
    return any(_calls_compile(_code_of(method)) for base in own for method in vars(base).values())


def _calls_compile(code: CodeType | None) -> bool:
    """Whether some code calls `mx.compile`, and not a namesake such as `re.compile`."""
    if code is None or "compile" not in _names_of_code(code):
        return False
    steps = list(dis.get_instructions(code))
    own = any(step.argval == "compile" and before.argval != "re" for before, step in pairwise(steps))
    return own or any(_calls_compile(part) for part in code.co_consts if isinstance(part, CodeType))


def _never(module: nn.Module) -> bool:
    """Whether a module draws with probability 0."""
    if getattr(module, "_p_1", None) == 1:
        return True
    return any(getattr(module, name, None) == 0 for name in _CHANCES)


def _names(cls: type, method: str) -> set[str]:
    """What the code of a method mentions, and that of the methods of its class that it mentions."""
    found: set[str] = set()
    left = {method}
    while left:
        names = _names_of(getattr(cls, left.pop(), None))
        left |= {name for name in names - found if callable(getattr(cls, name, None))}
        found |= names
    return found


def _names_of(function: Any) -> set[str]:
    code = _code_of(function)
    return set() if code is None else _names_of_code(code)


def _code_of(function: Any) -> CodeType | None:
    function = inspect.unwrap(function) if callable(function) else function
    return function.__code__ if isinstance(function, FunctionType) else None


def _names_of_code(code: CodeType) -> set[str]:
    inner = (part for part in code.co_consts if isinstance(part, CodeType))
    return {*code.co_names, *(name for part in inner for name in _names_of_code(part))}


def _reaches_modules(value: Any, seen: set[int]) -> bool:
    """Whether a function calls a module, as far as can be seen."""
    if id(value) in seen:
        return False
    seen.add(id(value))
    match value:
        case nn.Module():
            return True
        case MethodType():
            inside = (value.__self__, value.__func__)
        case partial():
            inside = (value.func, *value.args, *value.keywords.values())
        case list() | tuple():
            inside = tuple(value)
        case FunctionType():
            inside = tuple(_read_by(value))
        case _:
            return False
    return any(_reaches_modules(part, seen) for part in inside)


def _read_by(function: FunctionType) -> Iterator[Any]:
    """What a function closes over, has as defaults and names in its module, but for other functions there."""
    yield from function.__defaults__ or ()
    for cell in function.__closure__ or ():
        yield cell.cell_contents
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if not isinstance(value, FunctionType):
            yield value
