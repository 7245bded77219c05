"""`fingerprint`: what a value is, in a few hex digits that every process finds for an equal one.

A checkpoint must know its own sweep again in another process, where objects lie elsewhere and sets come in another
order. So a fingerprint is made of contents alone: of numbers, of bytes of arrays, of fields, of the code of functions;
never of `id`, `hash`, or a `repr` that may have an address in it. What has no contents that can be seen is refused.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cached_property, partial
from hashlib import blake2b
from pathlib import PurePath
from types import CodeType, MemberDescriptorType, ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_patch.cache import ActivationCache
from mlx_patch.errors import KindError
from mlx_patch.fingerprints import _code
from mlx_patch.model import HookedModel
from mlx_patch.provenance import checksum

_PLAIN = (type(None), type(...), type(NotImplemented), bool, int, float, complex, str, bytes, range)
_BY_NAME = (mx.Dtype, np.dtype, PurePath)


def fingerprint(value: object, name: str = "value") -> str:
    """32 hex digits (128 bits of BLAKE2b) that are equal for equal contents, in every process.

    * Numbers, texts, enums and the like count with their type: `1`, `1.0` and `True` are three values.
    * Lists, tuples, mappings and sets count by their members; in mappings and sets the order does not matter.
    * Arrays of mlx and numpy count by dtype, shape and bytes; an `ActivationCache` by its arrays, tokens and positions.
    * Dataclasses, and other objects written in Python, count by class and fields or attributes; fields that are not
      compared do not count.
    * Functions count by name, bytecode, constants, defaults, what they close over, and the globals that they read; so
      do the methods of classes. Where a function or class comes with Python, with mlx_patch or with an installed
      package, its name stands for its code. Whatever `mx.compile`, `mx.grad` or `mx.vmap` made of a function counts as
      that function. Bytecode is that of one version of Python.
    * A model of mlx counts by its modules, and by sums over its weights.

    Args:
        value: What to tell apart.
        name: What to call it in a message.
    Raises:
        KindError: There is something in it of which Python cannot see what it holds: an open file, a tokenizer.
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
        return self._of(value).hex()

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
        match value:
            case np.generic() | np.ndarray() | mx.array():
                return self._array(value)
            case Enum():
                return _digest(
                    "enum", _code.full_name(type(value)).encode(), value.name.encode(), self._of(value.value)
                )
            case HookedModel():
                return self._found(value.model)
            case nn.Module():
                return _digest("model", checksum(value).encode())
            case ActivationCache():
                about = value.positions, value.n_positions, value.n_layers, value.tokens
                return _digest("cache", self._of({str(s): a for s, a in value.items()}, "its arrays"), self._of(about))
            case ModuleType():
                return _digest("module", value.__name__.encode())
            case type():
                return self._class(value)
            case CodeType():
                return self._code(value)
            case partial():
                return self._all("partial", (value.func, value.args, value.keywords))
            case slice():
                return self._all("slice", (value.start, value.stop, value.step))
        if isinstance(value, _BY_NAME):
            return _digest(type(value).__name__, str(value).encode())
        return self._callable(value) or self._collection(value) or self._object(value)

    def _all(self, tag: str, parts: Iterable[object]) -> bytes:
        return _digest(tag, *(self._of(part, f"part {n} of a {tag}") for n, part in enumerate(parts)))

    def _array(self, value: Any) -> bytes:
        about = f"{type(value).__module__} {value.dtype} {value.shape}".encode()
        if isinstance(value, mx.array):
            value = np.array(value.view(mx.uint16) if value.dtype == mx.bfloat16 and value.ndim else _seen(value))
        if value.dtype.hasobject:
            return _digest("array", about, self._of(value.tolist(), "an array of objects"))
        return _digest("array", about, np.ascontiguousarray(value).tobytes())

    def _collection(self, value: Any) -> bytes | None:
        kind = type(value).__name__
        if isinstance(value, Mapping):
            pairs = (self._of(key, "a key") + self._of(own, f"entry {key!r}") for key, own in value.items())
            return _digest(kind, *sorted(pairs))
        if isinstance(value, Set):
            return _digest(kind, *sorted(self._of(own, "a member") for own in value))
        return self._all(kind, value) if isinstance(value, list | tuple) else None

    def _object(self, value: Any) -> bytes:
        if is_dataclass(value):
            own = {field.name: getattr(value, field.name) for field in fields(value) if field.compare}
        elif hasattr(value, "__dict__") or hasattr(type(value), "__slots__"):
            own = {**_slots(value), **vars(value)} if hasattr(value, "__dict__") else _slots(value)
        else:
            trail = ": ".join(filter(None, self._trail))
            raise KindError(
                f"`{self._trail[0]}` must consist of what another process can know again. Got {trail}, a "
                f"{type(value).__module__}.{type(value).__qualname__}. {self._remedy}, or use what it gives in "
                "place of it: token ids, say, in place of a tokenizer."
            )
        parts = (name.encode() + b"=" + self._of(own[name], f"attribute {name!r}") for name in sorted(own))
        return _digest("object", self._of(type(value)), *parts)

    def _callable(self, value: Any) -> bytes | None:
        if _code.is_builtin(value):
            owner = getattr(value, "__self__", None)
            bound = b"" if owner is None or isinstance(owner, ModuleType) else self._of(owner)
            return _digest("builtin", _code.full_name(value).encode(), bound)
        if hasattr(value, "__func__") and hasattr(value, "__self__"):
            return self._all("method", (value.__func__, value.__self__))
        if isinstance(getattr(value, "__code__", None), CodeType):
            return self._function(_code.unchecked(value))
        return self._of(value.__wrapped__, "what it wraps") if _code.is_memoised(value) else None

    def _function(self, function: Callable[..., Any]) -> bytes:
        read = _code.read_by(function)
        own = _code.full_name(function) if _code.is_installed(function.__module__) else function.__code__
        parts = {"code": own, "defaults": function.__defaults__, "keywords": function.__kwdefaults__}
        parts |= {f"{name!r}, which it closes over": held for name, held in read.enclosed.items()}
        if not isinstance(own, str):
            parts |= {f"the global {name!r}": held for name, held in read.globals.items()}
        digests = (label.encode() + b"=" + self._of(held, label) for label, held in sorted(parts.items()))
        return _digest("function", function.__name__.encode(), *digests)

    def _code(self, code: CodeType) -> bytes:
        about = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags, code.co_exceptiontable
        names = code.co_names, code.co_freevars, code.co_cellvars
        return self._all("code", (code.co_code, code.co_consts, about, names))

    def _class(self, cls: type) -> bytes:
        own = [base for base in cls.__mro__ if not _code.is_installed(base.__module__)]
        parts = (
            name.encode() + b"=" + self._of(member, f"its {name!r}")
            for base in own
            for name, member in sorted(_code.members(base).items())
            for member in _written(member)
        )
        return _digest("class", *(_code.full_name(base).encode() for base in cls.__mro__), *parts)


def _digest(tag: str, *parts: bytes) -> bytes:
    whole = blake2b(digest_size=16)
    for part in (tag.encode(), *parts):
        whole.update(len(part).to_bytes(8, "little"))
        whole.update(part)
    return whole.digest()


def _seen(array: mx.array) -> mx.array:
    return array.astype(mx.float32) if array.dtype == mx.bfloat16 else array


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
