"""`fingerprint`: what a value is, in a few hex digits that every process finds for an equal one.

A checkpoint must know its own sweep again in another process, where objects lie elsewhere and sets come in another
order. So a fingerprint is made of contents alone: of numbers, of bytes of arrays, of fields, of the code of functions;
never of `id`, `hash`, or a `repr` that may have an address in it. What has no contents that can be seen is refused.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cached_property, partial
from hashlib import blake2b
from pathlib import PurePath
from types import CodeType, FunctionType, MemberDescriptorType, ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_patch.cache import ActivationCache
from mlx_patch.engine import plain_class
from mlx_patch.errors import KindError
from mlx_patch.files import bits_of
from mlx_patch.fingerprints import _code, _library, _reads
from mlx_patch.model import HookedModel
from mlx_patch.provenance import checksum

_PLAIN = (type(None), type(...), type(NotImplemented), bool, int, float, complex, str, bytes, range)
_DERIVED = (int, float, complex, str, bytes)
_BY_NAME = (mx.Dtype, np.dtype, PurePath)


def fingerprint(value: object, name: str = "value") -> str:
    """32 hex digits (128 bits of BLAKE2b) that are equal for equal contents, in every process.

    * Numbers, texts, enums and the like count with their type: `1`, `1.0` and `True` are three values.
    * Lists, tuples, mappings and sets count by their members; in mappings and sets the order does not matter.
    * Arrays of mlx and numpy count by dtype, shape and bytes; an `ActivationCache` by its arrays, tokens and positions.
    * Dataclasses, and other objects written in Python, count by class and fields or attributes, what derives from a
      builtin kind by its contents too; of the library's own dataclasses, fields that are not compared do not count.
    * Functions count by name, bytecode, constants, defaults, attributes, what they close over, and what they read: of
      globals, of modules, of modules that they import. A name is followed through modules to what is used; a module
      that is handed on, to `getattr` say, counts by all that is in it. So do the methods of classes. Where a function
      or class is of Python, of mlx_patch or of an installed package, its name and version stand for its code. Whatever
      `mx.compile`, `mx.grad` or `mx.vmap` made of a function counts as that function. Bytecode is that of one version
      of Python.
    * A model of mlx counts by its modules, and by sums over its weights; layers of the user's own by code as well.

    What cannot be known another time is refused: files, the environment, the clock, random states without a seed,
    `eval`, `globals()`, modules that are imported by a name that is worked out. What a method of an argument does is
    not seen, but for names such as `read_text`.

    Args:
        value: What to tell apart.
        name: What to call it in a message.
    Raises:
        KindError: There is something in it of which Python cannot see what it holds, an open file or a tokenizer; or a
            function in it reads what cannot be known.
    Example:
        >>> fingerprint({"a": 1, "b": (2.0, mx.array([3]))}) == fingerprint({"b": (2.0, mx.array([3])), "a": 1})
        True
        >>> fingerprint((1, 2)) == fingerprint((1.0, 2)), fingerprint((1, 2)) == fingerprint([1, 2])
        (False, False)
    """
    return Fingerprints().of(value, name)


class Fingerprints:
    """Fingerprints of several values, where what they share is read once.

    Args:
        remedy: What to do where a value cannot be told, for a message.
    """

    def __init__(self, remedy: str = "Leave `checkpoint` out") -> None:
        self._remedy = remedy
        self._known: dict[int, tuple[object, bytes]] = {}  # with the value, which keeps its id from being used again
        self._open: list[int] = []
        self._trail: list[str] = []
        self._reach = sys.maxsize

    def of(self, value: object, name: str = "value") -> str:
        """What `fingerprint` returns."""
        self._open, self._trail, self._reach = [], [name], sys.maxsize
        try:
            return self._of(value).hex()
        except RecursionError:
            self._trail = [name]
            raise self._refused(value, "leads too deep to follow") from None

    def _of(self, value: object, part: str = "") -> bytes:
        if type(value) in _PLAIN:
            return _digest(type(value).__name__, repr(value).encode())
        if id(value) in self._known:
            return self._known[id(value)][1]
        if id(value) in self._open:  # a value inside itself: how far up it is says which
            place = self._open.index(id(value))
            self._reach = min(self._reach, place)
            return _digest("within", str(len(self._open) - place).encode())
        return self._entered(value, part)

    def _entered(self, value: object, part: str) -> bytes:
        depth, outer, self._reach = len(self._open), self._reach, sys.maxsize
        self._open.append(id(value))
        self._trail.append(part)
        found = self._found(value)
        self._trail.pop()
        self._open.pop()
        if self._reach > depth:  # else it is inside itself, and looks different from elsewhere in that circle
            self._known[id(value)] = value, found
        self._reach = min(outer, self._reach)
        return found

    def _found(self, value: Any) -> bytes:
        if why := _library.unknowable(value):
            raise self._refused(value, why)
        if isinstance(value, _BY_NAME):
            return _digest(type(value).__name__, str(value).encode())
        return self._matched(value) or self._callable(value) or self._collection(value) or self._object(value)

    def _matched(self, value: Any) -> bytes | None:
        """The fingerprint of a value whose kind says all."""
        match value:
            case np.generic() | mx.array():
                return self._array(value)
            case np.ndarray():
                return self._with_class(value, np.ndarray, self._array(value))
            case Enum():
                name, cls = _code.full_name(type(value)).encode(), self._of(type(value), "its class")
                return _digest("enum", name, value.name.encode(), self._of(value.value), cls)
            case HookedModel():
                return self._found(value.model)
            case nn.Module():
                return self._model(value)
            case ActivationCache():
                about = value.positions, value.n_positions, value.n_layers, value.tokens
                return _digest("cache", self._of({str(s): a for s, a in value.items()}, "its arrays"), self._of(about))
            case ModuleType():
                return self._module(value)
            case type():
                return self._class(value)
            case CodeType():
                return self._code(value)
            case partial():
                return self._all("partial", (value.func, value.args, value.keywords))
            case re.Pattern():
                return self._all("pattern", (value.pattern, value.flags))
            case slice():
                return self._all("slice", (value.start, value.stop, value.step))
        return None

    def _all(self, tag: str, parts: Iterable[object]) -> bytes:
        return _digest(tag, *(self._of(part, f"part {n} of a {tag}") for n, part in enumerate(parts)))

    def _refused(self, value: Any, why: str = "") -> KindError:
        """The error for what no other process could know again."""
        trail = ": ".join(filter(None, self._trail))
        named = hasattr(value, "__name__") and (callable(value) or isinstance(value, ModuleType))
        kind = value.__name__ if named else f"a {type(value).__module__}.{type(value).__qualname__}"
        return KindError(
            f"`{self._trail[0]}` must consist of what another process can know again. Got {trail}, {kind}"
            f"{why and f', which {why}'}. {self._remedy}, or use what it gives in "
            "place of it: token ids, say, in place of a tokenizer."
        )

    def _array(self, value: Any) -> bytes:
        kind = "mlx.core" if isinstance(value, mx.array) else "numpy"
        about = f"{kind} {value.dtype} {value.shape}".encode()
        if isinstance(value, mx.array):
            return _digest("array", about, bits_of(value).tobytes())
        numbers = np.asarray(value)
        if numbers.dtype.hasobject:
            return _digest("array", about, self._of(numbers.tolist(), "an array of objects"))
        return _digest("array", about, np.ascontiguousarray(numbers).tobytes())

    def _with_class(self, value: Any, base: type, contents: bytes) -> bytes:
        """Contents of a builtin kind, with what a subclass adds: its methods, and attributes of its own."""
        if type(value) is base:
            return contents
        attributes = {**_slots(value), **getattr(value, "__dict__", {})}
        if isinstance(value, defaultdict):
            attributes["default_factory"] = value.default_factory
        return _digest("derived", contents, self._of(type(value), "its class"), *self._named(attributes))

    def _named(self, attributes: Mapping[str, object]) -> Iterator[bytes]:
        return (name.encode() + b"=" + self._of(own, f"attribute {name!r}") for name, own in sorted(attributes.items()))

    def _collection(self, value: Any) -> bytes | None:
        kind = type(value).__name__
        if isinstance(value, Mapping):
            pairs = (self._of(key, "a key") + self._of(own, f"entry {key!r}") for key, own in value.items())
            return self._with_class(value, dict, _digest(kind, *sorted(pairs)))
        if isinstance(value, Set):
            members = _digest(kind, *sorted(self._of(own, "a member") for own in value))
            return self._with_class(value, frozenset if isinstance(value, frozenset) else set, members)
        if isinstance(value, list | tuple):
            return self._with_class(value, list if isinstance(value, list) else tuple, self._all(kind, value))
        base: Any = next((base for base in _DERIVED if isinstance(value, base)), None)
        return base and self._with_class(value, base, _digest(base.__name__, base.__repr__(value).encode()))

    def _object(self, value: Any) -> bytes:
        known = _library.is_installed(type(value).__module__)
        if is_dataclass(value) and known:
            own = {field.name: getattr(value, field.name) for field in fields(value) if field.compare}
        elif hasattr(value, "__dict__") or hasattr(type(value), "__slots__"):
            own = {**_slots(value), **getattr(value, "__dict__", {})}
        else:
            raise self._refused(value)
        if _code.holds_more_than_it_shows(value):
            raise self._refused(value, "holds what its attributes do not show")
        if isinstance(value, BaseException):
            own["args"] = value.args
        return _digest("object", self._of(type(value), "its class"), *self._named(own))

    def _module(self, module: ModuleType) -> bytes:
        """A module of the user's own counts by all that is in it; one of a library by its name and version."""
        version = _library.module_version(module.__name__)
        if version is not None:
            return _digest("module", module.__name__.encode(), version.encode())
        held = {n: v for n, v in vars(module).items() if n == "__getattr__" or not (n[:2] == n[-2:] == "__")}
        return _digest("module", module.__name__.encode(), *self._named(held))

    def _model(self, model: nn.Module) -> bytes:
        """A model counts by its weights; layers that are not mlx's or mlx_lm's own, by their code and attributes too.

        Functions that a layer holds count wherever they are.
        """
        parts = [checksum(model).encode()]
        for path, module in sorted(model.named_modules(), key=lambda pair: pair[0]):
            cls = plain_class(module)
            known = _library.library_name(cls) is not None
            held = {n: _without_modules(v) for n, v in {**module, **vars(module)}.items() if n != "_no_grad"}
            shown = {n: part for n, part in held.items() if not known or _is_code(part) or _is_option(cls, n, part)}
            if not known:
                parts.append(path.encode() + self._of(cls, f"the class of {path!r}"))
            parts += [path.encode() + part for part in self._named(shown)]
        return _digest("model", *parts)

    def _callable(self, value: Any) -> bytes | None:
        if _code.is_builtin(value):
            owner = getattr(value, "__self__", None)
            bound = b"" if owner is None or isinstance(owner, ModuleType) else self._of(owner)
            version = _library.module_version(getattr(value, "__module__", None) or "") or ""
            return _digest("builtin", _code.full_name(value).encode(), version.encode(), bound)
        if hasattr(value, "__func__") and hasattr(value, "__self__"):
            return self._all("method", (value.__func__, value.__self__))
        if isinstance(getattr(value, "__code__", None), CodeType):
            return self._function(_code.unchecked(value))
        if _code.is_memoised(value):
            return self._of(value.__wrapped__, "what it wraps")
        name = _library.library_name(value) if callable(value) else None
        return None if name is None else _digest("library", name.encode())

    def _function(self, function: Callable[..., Any]) -> bytes:
        name = _library.library_name(function)
        parts: dict[str, object] = {"code": name or function.__code__}
        parts |= {"defaults": function.__defaults__, "keywords": function.__kwdefaults__}
        try:
            parts |= _reads.enclosed_by(function) if name else {**_attributes(function), **_reads.reads_of(function)}
        except _reads.Unknowable as error:
            raise self._refused(function, str(error)) from None
        digests = (label.encode() + b"=" + self._of(held, label) for label, held in sorted(parts.items()))
        return _digest("function", function.__name__.encode(), *digests)

    def _code(self, code: CodeType) -> bytes:
        about = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags, code.co_exceptiontable
        names = code.co_names, code.co_freevars, code.co_cellvars
        return self._all("code", (code.co_code, code.co_consts, about, names))

    def _class(self, cls: type) -> bytes:
        names = [_library.library_name(base) for base in cls.__mro__]
        own = [base for base, name in zip(cls.__mro__, names, strict=True) if name is None]
        parts = (
            name.encode() + b"=" + self._of(member, f"its {name!r}")
            for base in own
            for name, member in sorted(_code.members(base).items())
            for member in _written(member)
        )
        made_by = [self._of(type(cls), "its metaclass")] if _library.library_name(type(cls)) is None else []
        known = (name or _code.full_name(base) for base, name in zip(cls.__mro__, names, strict=True))
        return _digest("class", *(name.encode() for name in known), *parts, *made_by)


def _attributes(function: Callable[..., Any]) -> dict[str, object]:
    """What was written onto a function, by labels; not what it wraps, which it reads if it calls it."""
    held = vars(function) if isinstance(function, FunctionType) else {}
    return {f"its attribute {name!r}": value for name, value in held.items() if name != "__wrapped__"}


def _without_modules(value: Any) -> Any:
    """What a layer holds, without its layers and parameters, which the checksum has seen."""
    if isinstance(value, dict):
        return {name: _without_modules(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_modules(part) for part in value]
    return None if isinstance(value, nn.Module) else value


def _is_option(cls: type, name: str, value: Any) -> bool:
    """Whether a layer of mlx's keeps a number under a name that a checksum leaves out: the rate of a dropout."""
    return cls.__module__.startswith("mlx.nn.") and name.startswith("_") and type(value) in _PLAIN


def _is_code(value: Any) -> bool:
    """Whether there is a function of the user's own in what a layer holds."""
    if isinstance(value, dict):
        return any(map(_is_code, value.values()))
    if isinstance(value, list):
        return any(map(_is_code, value))
    return isinstance(getattr(value, "__code__", None), CodeType) and _library.library_name(value) is None


def _digest(tag: str, *parts: bytes) -> bytes:
    whole = blake2b(digest_size=16)
    for part in (tag.encode(), *parts):
        whole.update(len(part).to_bytes(8, "little"))
        whole.update(part)
    return whole.digest()


def _slots(value: object) -> dict[str, object]:
    names = [n for base in type(value).__mro__ for n, m in vars(base).items() if isinstance(m, MemberDescriptorType)]
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def _written(member: Any) -> tuple[Any, ...]:
    """What a member of a class was written as."""
    if isinstance(member, staticmethod | classmethod):
        return (member.__func__,)
    if isinstance(member, property):
        return member.fget, member.fset, member.fdel
    return (member.func,) if isinstance(member, cached_property) else (member,)
