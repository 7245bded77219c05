"""The values that a function reads from outside itself, according to its bytecode.

A name of a module is followed through its attributes, `my_edits.damped`, to the value that is used: a user's module can
change while its name does not. A module that is handed on, to `getattr` say, counts as a whole. Names bound by an
`import` inside the function are followed in the same way.
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
    """The reason why a function has no fingerprint, as a clause."""


@dataclass(frozen=True)
class _Load:
    """One place where a name is read.

    Attributes:
        name: The name.
        is_global: Whether it is a name of the module, and not of the function or of a function around it.
        attributes: The attributes that are read of it right after, in order.
        calls_without: Whether the result is then called without arguments.
    """

    name: str
    is_global: bool
    attributes: tuple[str, ...]
    calls_without: bool


def reads_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The values that a function reads, by labels for messages. Names without a value count by the code alone.

    Raises:
        Unknowable: It reads a value that may change from run to run.
    """
    codes = list(_nested(function.__code__))
    loads = [load for code in codes for load in _loads(code)]
    imports = _imported(codes, function.__globals__)
    enclosed = _enclosed(function)
    values = {label: value for label, value in enclosed_by(function).items() if not _is_module(value)}
    values |= {f"{name!r}, which it imports": value for name, value in imports if not _is_module(value)}
    n_draws = 0
    for load in loads:
        roots = list(_roots(load, enclosed, imports, function.__globals__))
        if not roots:  # an argument, or a value that the function has made
            _refuse_attributes(None, load.attributes)
        for root in roots:
            label, value = _follow_modules(load, root)
            if is_draw(value):
                n_draws += 1
            else:
                values |= _labelled_value(load, label, value)
    _refuse_draws(n_draws, codes)
    return values


def enclosed_by(function: Callable[..., Any]) -> dict[str, Any]:
    """The values that a function closes over, by labels for messages."""
    return {f"{name!r}, which it closes over": value for name, value in _enclosed(function).items()}


def _labelled_value(load: _Load, label: str, value: Any) -> dict[str, Any]:
    """The value of a load by its label; nothing for a builtin of Python, or for a name without a value.

    Raises:
        Unknowable: The value may change from run to run.
    """
    if load.calls_without and is_generator_maker(value):
        raise Unknowable(f"makes {label} without a seed. Give it one")
    if load.is_global and value is vars(builtins).get(load.name):
        if reason := unknowable(value):
            raise Unknowable(f"uses {label!r}, which {reason}")
        return {}
    if value is _MISSING:
        return {}
    if load.is_global:
        return {f"the global {label!r}": value}
    return {f"the name {label!r}": value}


def _roots(
    load: _Load, enclosed: Mapping[str, Any], imports: Sequence[tuple[str, Any]], namespace: Mapping[str, Any]
) -> Iterator[Any]:
    """The values that a name may stand for."""
    for name, value in imports:
        if name == load.name:
            yield value
    if load.is_global:
        yield namespace.get(load.name, vars(builtins).get(load.name, _MISSING))
    elif load.name in enclosed and _is_module(enclosed[load.name]):
        yield enclosed[load.name]


def _follow_modules(load: _Load, root: Any) -> tuple[str, Any]:
    """The value that attributes of modules lead to, with its dotted path.

    Raises:
        Unknowable: An attribute of that value may change from run to run.
    """
    value, path = root, [load.name]
    attributes = list(load.attributes)
    while attributes and _is_module(value) and attributes[0] != "__dict__":
        path.append(attributes.pop(0))
        value = getattr(value, path[-1], _MISSING)
    _refuse_attributes(value, attributes)
    return ".".join(path), value


def _refuse_attributes(owner: Any, names: Sequence[str]) -> None:
    """Refuse attributes that may change from run to run; only the first one is of an owner that is known."""
    for name in names:
        if reason := unknowable_attribute(owner, name):
            raise Unknowable(reason)
        owner = None


def _refuse_draws(n_draws: int, codes: Sequence[CodeType]) -> None:
    """Refuse random numbers that are drawn without a key of their own.

    Raises:
        Unknowable: There are more draws than calls with `key=`.
    """
    keyword_calls = [names for code in codes for names in _keywords(code) if "key" in names]
    if n_draws > len(keyword_calls):
        raise Unknowable("draws from MLX's random state. Give each draw `key=mx.random.key(...)`")


def _keywords(code: CodeType) -> Iterator[tuple[Any, ...]]:
    """The names of the keywords of each call; Python 3.11 and 3.12 keep them in an instruction before the call."""
    for step in dis.get_instructions(code):
        names = step.argval
        if step.opname == "KW_NAMES":
            names = code.co_consts[step.arg or 0]
        if isinstance(names, tuple):
            yield names


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _nested(const)


def _loads(code: CodeType) -> Iterator[_Load]:
    """The loads of names. Attributes of other values are checked by their names alone.

    Raises:
        Unknowable: Such an attribute may change from run to run.
    """
    steps = list(dis.get_instructions(code))
    end_of_attributes = 0
    for n, step in enumerate(steps):
        if step.opname.startswith((*_OF_MODULE, *_OF_FUNCTION)):
            attributes = list(takewhile(lambda later: later.opname in _ATTRIBUTES, steps[n + 1 :]))
            end_of_attributes = n + 1 + len(attributes)
            yield from _loads_of_step(step, attributes, _calls_without_arguments(steps[end_of_attributes:]))
        elif step.opname in _ATTRIBUTES and n >= end_of_attributes:
            if reason := unknowable_attribute(None, step.argval):
                raise Unknowable(reason)


def _loads_of_step(
    step: dis.Instruction, attributes: Sequence[dis.Instruction], calls_without: bool
) -> Iterator[_Load]:
    """The load of a step, or both of them: Python 3.13 fuses two, and the attributes are those of the second."""
    names = step.argval
    if not isinstance(names, tuple):
        names = (names,)
    is_global = step.opname.startswith(_OF_MODULE)
    for name in names[:-1]:
        yield _Load(name, is_global, (), False)
    yield _Load(names[-1], is_global, tuple(attribute.argval for attribute in attributes), calls_without)


def _calls_without_arguments(steps: Sequence[dis.Instruction]) -> bool:
    call = next((step for step in steps if step.opname not in _CALLS), None)
    return call is not None and call.opname == "CALL" and call.arg == 0


def _imported(codes: Sequence[CodeType], namespace: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The names that imports inside a function bind, with their values."""
    return [pair for code in codes for pair in _imports_of(list(dis.get_instructions(code)), namespace)]


def _imports_of(steps: Sequence[dis.Instruction], namespace: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for n, step in enumerate(steps):
        if step.opname != "IMPORT_NAME":
            continue
        # Before the import its level and its names are loaded; after it, up to the next, the names are stored.
        level, names = steps[n - 2].argval, steps[n - 1].argval
        stores = list(takewhile(lambda later: later.opname != "IMPORT_NAME", steps[n + 1 :]))
        module = _import_module(step.argval, level, namespace)
        if module is None:
            continue
        if names is None:
            yield _bound_module(module, step.argval, stores)
        else:
            yield from _bound_names(module, stores)


def _bound_module(module: ModuleType, path: str, steps: Sequence[dis.Instruction]) -> tuple[str, ModuleType]:
    """The name and the module that `import path` binds: the top package, unless there is an `as`."""
    store = next(step for step in steps if step.opname.startswith("STORE_"))
    has_as = steps[0].opname == "IMPORT_FROM"  # how `import a.b as c` reaches b
    if "." in path and not has_as:
        module = importlib.import_module(path.partition(".")[0])
    return _stored_name(store), module


def _bound_names(module: ModuleType, steps: Sequence[dis.Instruction]) -> Iterator[tuple[str, Any]]:
    """The names and values that `from module import ...` binds."""
    for n, step in enumerate(steps):
        if step.opname == "IMPORT_FROM":
            yield _stored_name(steps[n + 1]), _imported_value(module, step.argval)


def _stored_name(step: dis.Instruction) -> str:
    """The name that a step binds; Python 3.13 may load another in the same step."""
    if isinstance(step.argval, tuple):
        return step.argval[0]
    return step.argval


def _import_module(name: str, level: int, namespace: Mapping[str, Any]) -> ModuleType | None:
    try:
        return importlib.import_module("." * level + name, namespace.get("__package__"))
    except (ImportError, TypeError):  # the function's own import will fail too: no module, or no package for its dots
        return None


def _imported_value(module: ModuleType, name: str) -> Any:
    if hasattr(module, name):
        return getattr(module, name)
    return _import_module(f"{module.__name__}.{name}", 0, {})


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
