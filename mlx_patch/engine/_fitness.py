"""Models that cannot be run as they are: those with active dropout, and those that compile parts of themselves.

`mx.compile` runs a function's Python code once and keeps the trace: an edit that is traced stays for ever, and an
earlier trace has no module to tap. So while hooks are in a model that compiles parts of itself, compiling is switched
off, for the whole process; compiled functions then run as they are written.
"""

import dis
import gc
import inspect
from collections.abc import Callable, Iterable, Iterator
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
"""The names under which modules keep the probability of dropping a value."""


def refuse_random(model: nn.Module, parts: Iterable[Any] | None = None) -> None:
    """Refuse a model that draws random numbers because it is in training mode.

    Args:
        model: The model.
        parts: The result of `parts_of`, if it has been computed.
    Raises:
        KindError: With the module's path.
    """
    if parts is None:
        parts = parts_of(model)
    for module in parts:
        if isinstance(module, nn.Module) and _draws(type(module)) and module.training and not _never_draws(module):
            raise KindError(
                f"`model` must not draw random numbers. Got one in training mode, with an active {_name(module)} at "
                f"{_path(model, module)!r}: each run would give different numbers. Call `model.model.eval()` first."
            )


def _path(model: nn.Module, module: nn.Module) -> str:
    for path, candidate in model.named_modules():
        if candidate is module:
            return path or "its root"
    return "?"


def compiles(parts: Iterable[Any]) -> bool:
    """Whether a model of these parts may call modules inside a function that it compiles."""
    return any(map(_is_compiled, parts))


def is_compiling() -> bool:
    """Whether `mx.compile` compiles, which MLX does not say: `mx.disable_compile` or the environment may forbid it."""
    calls: list[int] = []

    def counted(x: mx.array) -> mx.array:
        calls.append(1)
        return x

    function: Callable[[mx.array], mx.array] = mx.compile(counted)
    function(mx.zeros(()))
    function(mx.zeros(()))
    return len(calls) == 1


def _is_compiled(module_or_function: Any) -> bool:
    """Whether a module compiles code of its own, or a compiled function reaches modules."""
    if isinstance(module_or_function, nn.Module):
        return _compiles_itself(type(module_or_function))
    return any(_reaches_modules(function, set()) for function in gc.get_referents(module_or_function))


def parts_of(model: nn.Module) -> list[Any]:
    """The modules and compiled functions in a model, each once. Every run looks, so it must be quick."""
    results: list[Any] = []
    visited: set[int] = set()
    queue: list[Any] = [model]
    while queue:
        value = queue.pop()
        kind = _kind(type(value))
        if kind is None or id(value) in visited:
            continue
        visited.add(id(value))
        if kind is nn.Module or kind is _Compiled:
            results.append(value)
        if kind is nn.Module or kind is dict:
            queue += value.values()
        if kind is nn.Module:
            queue += vars(value).values()
        if kind is list:
            queue += value
    return results


@cache
def _kind(cls: type) -> type | None:
    """The type as which a value of a class is walked: module, compiled function, list, dict; None for a leaf."""
    if issubclass(cls, nn.Module):
        return nn.Module
    if issubclass(cls, list | tuple):
        return list
    if issubclass(cls, dict):
        return dict
    if cls is _Compiled:
        return _Compiled
    return None


def _name(module: nn.Module) -> str:
    return plain_class(module).__name__


@cache
def _draws(cls: type) -> bool:
    """Whether a class's call draws random numbers in training mode."""
    return {"random", "training"} <= names_in(cls, "__call__")


@cache
def _compiles_itself(cls: type) -> bool:
    """Whether a method of a class, down to `nn.Module`, mentions `mx.compile`."""
    if nn.Module not in cls.__mro__:
        return False
    above_module = cls.__mro__[: cls.__mro__.index(nn.Module)]
    methods = (method for base in above_module for method in vars(base).values())
    return any(_calls_compile(_code_of(method)) for method in methods)


def _calls_compile(code: CodeType | None) -> bool:
    """Whether some code calls `mx.compile`, and not a namesake such as `re.compile`."""
    if code is None or "compile" not in _names_of_code(code):
        return False
    for before, instruction in pairwise(dis.get_instructions(code)):
        if instruction.argval == "compile" and before.argval != "re":
            return True
    return any(_calls_compile(inner) for inner in _inner_codes(code))


def _inner_codes(code: CodeType) -> Iterator[CodeType]:
    """The code of the functions, lambdas and comprehensions inside some code."""
    return (constant for constant in code.co_consts if isinstance(constant, CodeType))


def _never_draws(module: nn.Module) -> bool:
    """Whether a module draws with probability 0."""
    if getattr(module, "_p_1", None) == 1:
        return True
    return any(getattr(module, name, None) == 0 for name in _CHANCES)


def names_in(cls: type, method: str) -> set[str]:
    """The names in the code of a method, and in the methods of its class that it mentions."""
    results: set[str] = set()
    queue = {method}
    while queue:
        names = own_names(cls, queue.pop())
        queue |= {name for name in names - results if callable(getattr(cls, name, None))}
        results |= names
    return results


def own_names(cls: type, method: str) -> set[str]:
    """The names in the code of a method; none if the class has no such method, or it is not Python's."""
    code = _code_of(getattr(cls, method, None))
    return set() if code is None else _names_of_code(code)


def _code_of(function: Any) -> CodeType | None:
    if callable(function):
        function = inspect.unwrap(function)
    return function.__code__ if isinstance(function, FunctionType) else None


def _names_of_code(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for inner in _inner_codes(code):
        names |= _names_of_code(inner)
    return names


def _reaches_modules(value: Any, visited: set[int]) -> bool:
    """Whether a function calls a module, judging by its closure, defaults and globals."""
    if id(value) in visited:
        return False
    visited.add(id(value))
    match value:
        case nn.Module():
            return True
        case MethodType():
            referents = (value.__self__, value.__func__)
        case partial():
            referents = (value.func, *value.args, *value.keywords.values())
        case list() | tuple():
            referents = tuple(value)
        case FunctionType():
            referents = tuple(_values_read_by(value))
        case _:
            return False
    return any(_reaches_modules(referent, visited) for referent in referents)


def _values_read_by(function: FunctionType) -> Iterator[Any]:
    """The values in a function's closure, its defaults and the globals it names, other functions left out."""
    yield from function.__defaults__ or ()
    for cell in function.__closure__ or ():
        yield cell.cell_contents
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if not isinstance(value, FunctionType):
            yield value
