"""What a function reads from outside of itself, as far as its bytecode says.

A name that stands for a module is followed through its attributes, `my_edits.damped`, to what is used: a module of the
user's own can change where its name does not. A module that is handed on, to `getattr` say, counts as a whole. Names
that an `import` inside of the function binds are followed in the same way.
"""

import builtins
import dis
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from types import CodeType, ModuleType
from typing import Any

from mlx_patch.fingerprints._library import is_draw, is_generator_maker, unknowable, unknowable_attribute

_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD")
_CALLS = ("PRECALL", "PUSH_NULL", "CACHE")
_OF_MODULE = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
_OF_FUNCTION = ("LOAD_FAST", "LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF")
_MISSING = object()


class Unknowable(Exception):
    """Why a function cannot be known, as a clause."""


@dataclass(frozen=True)
class _Load:
    """One place where a name is read.

    Attributes:
        name: The name.
        is_global: Whether it is one of the module, and not one of the function or of what encloses it.
        attributes: Those that are read of it at once, in order.
        calls_without: Whether what is read is then called without arguments.
    """

    name: str
    is_global: bool
    attributes: tuple[str, ...]
    calls_without: bool


def reads_of(function: Callable[..., Any]) -> dict[str, Any]:
    """What a function reads, by labels for messages. What its code names and nothing stands for is left to its code.

    Raises:
        Unknowable: It reads what nobody can know another time.
    """
    codes = list(_nested(function.__code__))
    loads = [load for code in codes for load in _loads(code)]
    bound = _imported(codes, function.__globals__)
    enclosed = _enclosed(function)
    found = {label: value for label, value in enclosed_by(function).items() if not _is_module(value)}
    for label, value in bound:
        found |= {} if _is_module(value) else {f"{label!r}, which it imports": value}
    draws = 0
    for load in loads:
        roots = list(_roots(load, enclosed, bound, function.__globals__))
        if not roots:  # an argument, or what the function has made
            _refuse_attributes(None, load.attributes)
        for root in roots:
            label, value = _followed(load, root)
            draws += is_draw(value)
            if not is_draw(value):
                found |= _kept(load, label, value)
    _refuse_draws(draws, codes)
    return found


def enclosed_by(function: Callable[..., Any]) -> dict[str, Any]:
    """What a function closes over, by labels for messages."""
    return {f"{name!r}, which it closes over": value for name, value in _enclosed(function).items()}


def _kept(load: _Load, label: str, value: Any) -> dict[str, Any]:
    """What a load reads, unless it comes with every Python.

    Raises:
        Unknowable: Nobody can know what it gives another time.
    """
    if load.calls_without and is_generator_maker(value):
        raise Unknowable(f"makes {label} without a seed. Give it one")
    if load.is_global and value is vars(builtins).get(load.name):
        if why := unknowable(value):
            raise Unknowable(f"uses {label!r}, which {why}")
        return {}
    return {} if value is _MISSING else {f"the {'global' if load.is_global else 'name'} {label!r}": value}


def _roots(
    load: _Load, enclosed: Mapping[str, Any], bound: Sequence[tuple[str, Any]], there: Mapping[str, Any]
) -> Iterator[Any]:
    """What a name may stand for."""
    imported = [value for name, value in bound if name == load.name]
    yield from imported
    if load.is_global:
        yield there.get(load.name, vars(builtins).get(load.name, _MISSING))
    elif load.name in enclosed and _is_module(enclosed[load.name]):
        yield enclosed[load.name]


def _followed(load: _Load, root: Any) -> tuple[str, Any]:
    """What the attributes of a module lead to, with the name of all that was read.

    Raises:
        Unknowable: An attribute behind it gives nobody knows what.
    """
    value, path, left = root, [load.name], list(load.attributes)
    while left and _is_module(value) and left[0] != "__dict__":
        path.append(left.pop(0))
        value = getattr(value, path[-1], _MISSING)
    _refuse_attributes(value, left)
    return ".".join(path), value


def _refuse_attributes(owner: Any, names: Sequence[str]) -> None:
    for n, name in enumerate(names):
        if why := unknowable_attribute(owner if n == 0 else None, name):
            raise Unknowable(why)


def _refuse_draws(draws: int, codes: Sequence[CodeType]) -> None:
    """Refuse random numbers that are drawn without a key of their own.

    Raises:
        Unknowable: There are more draws than calls with `key=`.
    """
    keyed = sum("key" in names for code in codes for names in _keywords(code))
    if draws > keyed:
        raise Unknowable("draws from MLX's random state. Give each draw `key=mx.random.key(...)`")


def _keywords(code: CodeType) -> Iterator[tuple[Any, ...]]:
    """The names of the keywords of each call."""
    for step in dis.get_instructions(code):
        names = code.co_consts[step.arg or 0] if step.opname == "KW_NAMES" else step.argval
        if isinstance(names, tuple):
            yield names


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _nested(const)


def _loads(code: CodeType) -> Iterator[_Load]:
    """Where names are read; attributes of anything else are checked by their names alone.

    Raises:
        Unknowable: Such an attribute gives nobody knows what.
    """
    steps = list(dis.get_instructions(code))
    followed: set[int] = set()
    for n, step in enumerate(steps):
        if step.opname.startswith((*_OF_MODULE, *_OF_FUNCTION)):
            attributes = list(takewhile(lambda later: later.opname in _ATTRIBUTES, steps[n + 1 :]))
            followed |= set(range(n + 1, n + 1 + len(attributes)))
            yield from _of_step(step, attributes, _called_without(steps[n + 1 + len(attributes) :]))
        elif step.opname in _ATTRIBUTES and n not in followed and (why := unknowable_attribute(None, step.argval)):
            raise Unknowable(why)


def _of_step(step: dis.Instruction, attributes: Sequence[dis.Instruction], calls_without: bool) -> Iterator[_Load]:
    """One load, or the two that later versions of Python make one of; what follows is the last one's."""
    names = step.argval if isinstance(step.argval, tuple) else (step.argval,)
    is_global = step.opname.startswith(_OF_MODULE)
    for name in names[:-1]:
        yield _Load(name, is_global, (), False)
    yield _Load(names[-1], is_global, tuple(later.argval for later in attributes), calls_without)


def _called_without(later: Sequence[dis.Instruction]) -> bool:
    call = next((step for step in later if step.opname not in _CALLS), None)
    return call is not None and call.opname == "CALL" and call.arg == 0


def _imported(codes: Sequence[CodeType], there: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The names that imports inside of a function bind, with what they bind them to."""
    return [pair for code in codes for pair in _imports_of(list(dis.get_instructions(code)), there)]


def _imports_of(steps: Sequence[dis.Instruction], there: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for n, step in enumerate(steps):
        if step.opname == "IMPORT_NAME":
            later = list(takewhile(lambda other: other.opname != "IMPORT_NAME", steps[n + 1 :]))
            names = steps[n - 1].argval
            yield from _bound(_module(step.argval, steps[n - 2].argval, there), step.argval, names, later)


def _bound(
    module: ModuleType | None, name: str, names: Sequence[str] | None, later: Sequence[dis.Instruction]
) -> Iterator[tuple[str, Any]]:
    """What one import binds.

    Args:
        module: The module that it names; None where there is none.
        name: The name that it was imported by.
        names: What is taken from it; None for the module itself.
        later: What the code does then.
    """
    if module is None:
        return
    if names is None:
        whole = later[0].opname == "IMPORT_FROM" or "." not in name  # `import a.b as c`, and not `import a.b`
        top = module if whole else importlib.import_module(name.partition(".")[0])
        yield _stored(next(step for step in later if step.opname.startswith("STORE_"))), top
        return
    for n, step in enumerate(later):
        if step.opname == "IMPORT_FROM":
            yield _stored(later[n + 1]), _taken(module, step.argval)


def _stored(step: dis.Instruction) -> str:
    """The name that a step binds; later versions of Python read another in the same step."""
    return step.argval[0] if isinstance(step.argval, tuple) else step.argval


def _module(name: str, level: int, there: Mapping[str, Any]) -> ModuleType | None:
    try:
        return importlib.import_module("." * level + name, there.get("__package__"))
    except (ImportError, TypeError):  # as the function will find: there is none, or no package to count from
        return None


def _taken(module: ModuleType, name: str) -> Any:
    if hasattr(module, name):
        return getattr(module, name)
    return _module(f"{module.__name__}.{name}", 0, {})


def _enclosed(function: Callable[..., Any]) -> dict[str, Any]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return {name: cell.cell_contents for name, cell in cells if _is_filled(cell)}


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018  # reading it is the only way to know
    except ValueError:
        return False
    return True


def _is_module(value: object) -> bool:
    return isinstance(value, ModuleType)
