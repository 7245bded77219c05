"""The public surface, by introspection: what a user can call, under the name by which the user calls it."""

import functools
import inspect
import typing
from collections.abc import Callable, Iterator
from types import ModuleType

import mlx_patch as mp
from mlx_patch import plot, sweeps, testing

HOUSES: dict[str, ModuleType] = {
    "": mp,
    "circuits": mp.circuits,
    "cross": mp.cross,
    "dictionaries": mp.dictionaries,
    "lens": mp.lens,
    "metrics": mp.metrics,
    "paths": mp.paths,
    "plot": plot,
    "pos": mp.pos,
    "recipes": mp.recipes,
    "steps": mp.steps,
    "sweeps": sweeps,
    "tasks": mp.tasks,
    "testing": testing,
}
VARIADIC = ("HookedModel.editing",)
"""Callables whose arguments have no names."""

OPERATORS = ("__call__", "__getitem__", "__contains__", "__or__", "__add__", "__sub__", "__and__")


def public_callables() -> dict[str, Callable]:
    """Functions, constructors and methods that a user calls with arguments, by name: `circuits.run`, `Edit.via`."""
    found: dict[str, Callable] = {}
    named = {value for house in HOUSES.values() for _, value in _exports(house) if inspect.isclass(value)}
    seen: set[int] = set()
    for house, module in HOUSES.items():
        for name, value in _exports(module):
            if id(value) in seen:
                continue
            seen.add(id(value))
            title = f"{house}.{name}".lstrip(".")
            found[title] = value
            if inspect.isclass(value):
                found |= {f"{title}.{method}": bound for method, bound in _methods(value, named)}
    return {name: value for name, value in found.items() if slots_of(value) or name in VARIADIC}


def _exports(module: ModuleType) -> Iterator[tuple[str, typing.Any]]:
    """What a module shows: names of this package that do not begin with an underscore."""
    for name, value in sorted(vars(module).items()):
        is_ours = getattr(value, "__module__", "").startswith("mlx_patch")
        if name.startswith("_") or not is_ours or not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        if not ((inspect.isclass(value) and issubclass(value, BaseException)) or typing.is_typeddict(value)):
            yield name, value


def _methods(owner: type, named: set[type]) -> Iterator[tuple[str, Callable]]:
    """Methods that a class defines, or inherits from one that has no public name."""
    for base in inspect.getmro(owner):
        if base is not owner and (base in named or not base.__module__.startswith("mlx_patch")):
            continue
        for name, value in vars(base).items():
            is_shown = not name.startswith("_") or name in OPERATORS
            if is_shown and isinstance(value, classmethod | staticmethod):
                yield name, getattr(owner, name)
            elif is_shown and (inspect.isfunction(value) or isinstance(value, functools.partial)):
                yield name, value


def slots_of(function: Callable) -> tuple[str, ...]:
    """The arguments that a call of it may give, keywords of its TypedDicts among them."""
    names: list[str] = []
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return ()
    for name, parameter in signature.parameters.items():
        if name == "self":
            continue
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            names.extend(_keywords(parameter.annotation))
        elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
            names.append(name)
    return tuple(names)


def _keywords(annotation: typing.Any) -> tuple[str, ...]:
    """The keys of `**choices: Unpack[Choices]`."""
    unpacked = typing.get_args(annotation)
    if unpacked and typing.is_typeddict(unpacked[0]):
        return tuple(typing.get_type_hints(unpacked[0]))
    return ()
