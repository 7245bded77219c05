"""Functions and classes, as far as code tells them apart: what they read, where they come from, what is theirs."""

import builtins
import dis
import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, GetSetDescriptorType, MemberDescriptorType
from typing import Any

_BUILTIN = ("builtin_function_or_method", "method-wrapper", "wrapper_descriptor", "method_descriptor", "ufunc")
_BUILTIN_OF_MLX = ("nb_func", "nb_method", "nb_bound_method")
_INSTALLED = {"site-packages", "dist-packages"}
_STDLIB = Path(dis.__file__).parent


@dataclass(frozen=True)
class Read:
    """The values from outside that a function reads, by name.

    Attributes:
        enclosed: Those that it closes over.
        globals: Those of its module.
    """

    enclosed: Mapping[str, Any]
    globals: Mapping[str, Any]


def read_by(function: Callable[..., Any]) -> Read:
    """What a function reads; a name that stands for nothing, or for what comes with Python, is left to its code."""
    code = function.__code__
    cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
    there = function.__globals__
    names = sorted(set(_globals_of(code)))
    return Read(
        {name: cell.cell_contents for name, cell in cells if _is_filled(cell)},
        {name: there[name] for name in names if name in there and there[name] is not vars(builtins).get(name)},
    )


def _globals_of(code: CodeType) -> Iterator[str]:
    yield from (one.argval for one in dis.get_instructions(code) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _globals_of(const)


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018  # reading it is the only way to know
    except ValueError:
        return False
    return True


def full_name(named: Any) -> str:
    """Where something was defined, and what it is called."""
    name = getattr(named, "__qualname__", None) or named.__name__
    return f"{getattr(named, '__module__', None) or ''}.{name}"


def is_builtin(value: object) -> bool:
    """Whether it is a function that is not written in Python, so that its name is all there is."""
    kind = type(value)
    return kind.__name__ in _BUILTIN or (kind.__module__ == "nanobind" and kind.__name__ in _BUILTIN_OF_MLX)


def is_memoised(value: object) -> bool:
    """Whether it is what `functools.cache` makes of a function."""
    return isinstance(value, functools._lru_cache_wrapper)


def is_installed(module: str | None) -> bool:
    """Whether a module comes with Python, mlx_patch or an installed package, whose version stands for its code."""
    name = module or ""
    file = getattr(sys.modules.get(name), "__file__", None)
    if name == "__main__" or name.partition(".")[0] == "mlx_patch" or file is None:
        return name != "__main__" and name.partition(".")[0] in ("mlx_patch", *sys.stdlib_module_names)
    path = Path(file)
    return not _INSTALLED.isdisjoint(path.parts) or path.is_relative_to(_STDLIB)


def unchecked(function: Any) -> Any:
    """The function without the checks of its annotations that beartype puts around it, whose code names addresses."""
    while function.__code__.co_filename.startswith("<@beartype") and hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


def members(cls: type) -> dict[str, Any]:
    """What is written in a class: methods, properties and values, but not what Python adds to every class."""
    return {name: member for name, member in vars(cls).items() if _is_written(cls, name, member)}


def _is_written(cls: type, name: str, member: Any) -> bool:
    if isinstance(member, GetSetDescriptorType | MemberDescriptorType) or name == "_abc_impl":
        return False
    if not (name.startswith("__") and name.endswith("__")):
        return True
    code = getattr(member, "__code__", None)
    return isinstance(code, CodeType) and not code.co_qualname.startswith("__create_fn__")  # which dataclass has made
