"""`fingerprint`: a few hex digits for a value, which are the same for an equal value in every process.

A checkpoint must recognise its own sweep in another process, where objects have other addresses and sets another order.
So a fingerprint is made of contents alone: of numbers, of bytes of arrays, of fields, of the code of functions; never
of `id`, `hash`, or a `repr` that may hold an address. A value whose contents Python cannot see is refused.
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

    Values that may change from run to run are refused: files, the environment, the clock, random states without a
    seed, `eval`, `globals()`, modules imported by a computed name. What a method of an argument does is not seen,
    except for names such as `read_text`.

    Args:
        value: The value.
        name: Its name in a message.
    Raises:
        KindError: It holds an object whose contents Python cannot see, an open file or a tokenizer; or a function in
            it reads a value that may change from run to run.
    Example:
        >>> fingerprint({"a": 1, "b": (2.0, mx.array([3]))}) == fingerprint({"b": (2.0, mx.array([3])), "a": 1})
        True
        >>> fingerprint((1, 2)) == fingerprint((1.0, 2)), fingerprint((1, 2)) == fingerprint([1, 2])
        (False, False)
    """
    return Fingerprints().of(value, name)


class Fingerprints:
    """Fingerprints of several values, whose shared objects are read once.

    Args:
        remedy: What to do about a value without a fingerprint, for a message.
    """

    def __init__(self, remedy: str = "Leave `checkpoint` out") -> None:
        self._remedy = remedy
        self._digests: dict[int, tuple[object, bytes]] = {}  # with the value, so that its id is not used again
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
            raise self._refused(value, "is nested too deeply to follow") from None

    def _of(self, value: object, label: str = "") -> bytes:
        """The digest of a value; in messages, `label` names its role in the value that holds it."""
        if type(value) in _PLAIN:
            return _digest(type(value).__name__, repr(value).encode())
        if id(value) in self._digests:
            return self._digests[id(value)][1]
        if id(value) in self._open:  # it holds itself: the number of levels up says which value it is
            depth = self._open.index(id(value))
            self._reach = min(self._reach, depth)
            return _digest("within", str(len(self._open) - depth).encode())
        return self._enter(value, label)

    def _enter(self, value: object, label: str) -> bytes:
        depth, outer_reach = len(self._open), self._reach
        self._reach = sys.maxsize
        self._open.append(id(value))
        self._trail.append(label)
        digest = self._contents(value)
        self._trail.pop()
        self._open.pop()
        # `_reach` is the lowest depth that the value refers back to. A value in a circle that began above it has
        # another digest when it is reached from elsewhere, so it is not remembered.
        if self._reach > depth:
            self._digests[id(value)] = value, digest
        self._reach = min(outer_reach, self._reach)
        return digest

    def _contents(self, value: Any) -> bytes:
        if reason := _library.unknowable(value):
            raise self._refused(value, reason)
        if isinstance(value, _BY_NAME):
            return _digest(type(value).__name__, str(value).encode())
        return self._of_kind(value) or self._callable(value) or self._collection(value) or self._object(value)

    def _of_kind(self, value: Any) -> bytes | None:
        """The digest of a value of a kind that has a rule of its own; None for any other."""
        match value:
            case np.generic() | mx.array():
                return self._array(value)
            case np.ndarray():
                return self._with_class(value, np.ndarray, self._array(value))
            case Enum():
                cls = self._of(type(value), "its class")
                full_name = _code.full_name(type(value)).encode()
                return _digest("enum", full_name, value.name.encode(), self._of(value.value), cls)
            case HookedModel():
                return self._contents(value.model)
            case nn.Module():
                return self._model(value)
            case ActivationCache():
                arrays = self._of({str(site): array for site, array in value.items()}, "its arrays")
                about = value.positions, value.n_positions, value.n_layers, value.tokens
                return _digest("cache", arrays, self._of(about))
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

    def _all(self, tag: str, values: Iterable[object]) -> bytes:
        return _digest(tag, *(self._of(value, f"part {n} of a {tag}") for n, value in enumerate(values)))

    def _refused(self, value: Any, reason: str = "") -> KindError:
        """The error for a value that another process could not recognise."""
        description = f"a {type(value).__module__}.{type(value).__qualname__}"
        if hasattr(value, "__name__") and (callable(value) or isinstance(value, ModuleType)):
            description = value.__name__
        if reason:
            description = f"{description}, which {reason}"
        trail = ": ".join(filter(None, self._trail))
        return KindError(
            f"`{self._trail[0]}` must consist of values that another process can recognise. Got {trail}, "
            f"{description}. {self._remedy}, or pass what it produces instead: token ids, for example, instead of a "
            "tokenizer."
        )

    def _array(self, value: Any) -> bytes:
        about = f"{value.dtype} {value.shape}"
        if isinstance(value, mx.array):
            return _digest("array", f"mlx.core {about}".encode(), bits_of(value).tobytes())
        header = f"numpy {about}".encode()
        numbers = np.asarray(value)
        if numbers.dtype.hasobject:
            return _digest("array", header, self._of(numbers.tolist(), "an array of objects"))
        return _digest("array", header, np.ascontiguousarray(numbers).tobytes())

    def _with_class(self, value: Any, base: type, contents: bytes) -> bytes:
        """The digest of a builtin kind's contents, with the class and attributes that a subclass adds."""
        if type(value) is base:
            return contents
        attributes = {**_slots(value), **getattr(value, "__dict__", {})}
        if isinstance(value, defaultdict):
            attributes["default_factory"] = value.default_factory
        return _digest("derived", contents, self._of(type(value), "its class"), *self._named(attributes))

    def _named(self, attributes: Mapping[str, object]) -> Iterator[bytes]:
        for name, attribute in sorted(attributes.items()):
            yield name.encode() + b"=" + self._of(attribute, f"attribute {name!r}")

    def _collection(self, value: Any) -> bytes | None:
        kind = type(value).__name__
        if isinstance(value, Mapping):
            pairs = [self._of(key, "a key") + self._of(entry, f"entry {key!r}") for key, entry in value.items()]
            return self._with_class(value, dict, _digest(kind, *sorted(pairs)))
        if isinstance(value, Set):
            digest = _digest(kind, *sorted(self._of(member, "a member") for member in value))
            if isinstance(value, frozenset):
                return self._with_class(value, frozenset, digest)
            return self._with_class(value, set, digest)
        if isinstance(value, list):
            return self._with_class(value, list, self._all(kind, value))
        if isinstance(value, tuple):
            return self._with_class(value, tuple, self._all(kind, value))
        base: Any = next((base for base in _DERIVED if isinstance(value, base)), None)
        if base is None:
            return None
        return self._with_class(value, base, _digest(base.__name__, base.__repr__(value).encode()))

    def _object(self, value: Any) -> bytes:
        if is_dataclass(value) and _library.is_installed(type(value).__module__):
            attributes = {field.name: getattr(value, field.name) for field in fields(value) if field.compare}
        elif hasattr(value, "__dict__") or hasattr(type(value), "__slots__"):
            attributes = {**_slots(value), **getattr(value, "__dict__", {})}
        else:
            raise self._refused(value)
        if _code.holds_more_than_it_shows(value):
            raise self._refused(value, "holds data that its attributes do not show")
        if isinstance(value, BaseException):
            attributes["args"] = value.args
        return _digest("object", self._of(type(value), "its class"), *self._named(attributes))

    def _module(self, module: ModuleType) -> bytes:
        """A module of the user's own counts by all that is in it; one of a library by its name and version."""
        version = _library.module_version(module.__name__)
        if version is not None:
            return _digest("module", module.__name__.encode(), version.encode())
        attributes = {name: value for name, value in vars(module).items() if not _is_dunder(name)}
        if "__getattr__" in vars(module):  # it gives the module's other names
            attributes["__getattr__"] = vars(module)["__getattr__"]
        return _digest("module", module.__name__.encode(), *self._named(attributes))

    def _model(self, model: nn.Module) -> bytes:
        """A model counts by its weights; layers that are not mlx's or mlx_lm's own, by their code and attributes too.

        Functions that a layer holds count wherever they are.
        """
        digests = [checksum(model).encode()]
        for path, module in sorted(model.named_modules(), key=lambda pair: pair[0]):
            digests += [path.encode() + digest for digest in self._layer(path, module)]
        return _digest("model", *digests)

    def _layer(self, path: str, layer: nn.Module) -> Iterator[bytes]:
        """The digests of a layer's class and attributes, without its weights; of a library's layer, of few of them."""
        cls = plain_class(layer)
        is_from_library = _library.library_name(cls) is not None
        if not is_from_library:
            yield self._of(cls, f"the class of {path!r}")
        attributes = {name: _plain_containers(value) for name, value in {**layer, **vars(layer)}.items()}
        attributes.pop("_no_grad", None)
        if is_from_library:
            names = [name for name, value in attributes.items() if _is_code(value) or _is_option(cls, name, value)]
            attributes = {name: attributes[name] for name in names}
        yield from self._named(attributes)

    def _callable(self, value: Any) -> bytes | None:
        if _code.is_builtin(value):
            return self._builtin(value)
        if hasattr(value, "__func__") and hasattr(value, "__self__"):
            return self._all("method", (value.__func__, value.__self__))
        if isinstance(getattr(value, "__code__", None), CodeType):
            return self._function(_code.unchecked(value))
        if _code.is_memoised(value):
            return self._of(value.__wrapped__, "what it wraps")
        if callable(value) and (name := _library.library_name(value)):
            return _digest("library", name.encode())
        return None

    def _builtin(self, value: Any) -> bytes:
        """A function that is not written in Python counts by its name, its version and the object it is bound to."""
        name = _code.full_name(value).encode()
        version = _library.module_version(getattr(value, "__module__", None) or "") or ""
        owner = getattr(value, "__self__", None)
        if owner is None or isinstance(owner, ModuleType):
            return _digest("builtin", name, version.encode(), b"")
        return _digest("builtin", name, version.encode(), self._of(owner))

    def _function(self, function: Callable[..., Any]) -> bytes:
        name = _library.library_name(function)
        contents: dict[str, object] = {
            "code": name or function.__code__,
            "defaults": function.__defaults__,
            "keywords": function.__kwdefaults__,
        }
        try:
            if name:
                contents |= _reads.enclosed_by(function)
            else:
                contents |= _attributes(function) | _reads.reads_of(function)
        except _reads.Unknowable as error:
            raise self._refused(function, str(error)) from None
        digests = [label.encode() + b"=" + self._of(value, label) for label, value in sorted(contents.items())]
        return _digest("function", function.__name__.encode(), *digests)

    def _code(self, code: CodeType) -> bytes:
        about = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags, code.co_exceptiontable
        names = code.co_names, code.co_freevars, code.co_cellvars
        return self._all("code", (code.co_code, code.co_consts, about, names))

    def _class(self, cls: type) -> bytes:
        """A class counts by its bases' names, the members of bases that no library wrote, and its metaclass."""
        names, members = [], []
        for base in cls.__mro__:
            name = _library.library_name(base)
            if name is None:
                members += self._members(base)
            names.append((name or _code.full_name(base)).encode())
        if _library.library_name(type(cls)) is None:
            members.append(self._of(type(cls), "its metaclass"))
        return _digest("class", *names, *members)

    def _members(self, cls: type) -> Iterator[bytes]:
        for name, member in sorted(_code.members(cls).items()):
            for function in _written(member):
                yield name.encode() + b"=" + self._of(function, f"its {name!r}")


def _is_dunder(name: str) -> bool:
    return name[:2] == name[-2:] == "__"


def _attributes(function: Callable[..., Any]) -> dict[str, object]:
    """The attributes of a function, by labels; without the function that it wraps, which it reads if it calls it."""
    if not isinstance(function, FunctionType):
        return {}
    return {f"its attribute {name!r}": value for name, value in vars(function).items() if name != "__wrapped__"}


def _plain_containers(value: Any) -> Any:
    """An attribute of a layer with plain dicts for the layers in it, which are dicts, and lists for tuples."""
    if isinstance(value, dict):
        return {name: _plain_containers(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_containers(entry) for entry in value]
    return value


def _is_option(cls: type, name: str, value: Any) -> bool:
    """Whether it is an option of one of mlx's layers that a checksum leaves out: the rate of a dropout."""
    return cls.__module__.startswith("mlx.nn.") and name.startswith("_") and type(value) in _PLAIN


def _is_code(value: Any) -> bool:
    """Whether an attribute of a layer is, or holds, a function of the user's own."""
    if isinstance(value, dict):
        return any(map(_is_code, value.values()))
    if isinstance(value, list):
        return any(map(_is_code, value))
    return isinstance(getattr(value, "__code__", None), CodeType) and _library.library_name(value) is None


def _digest(tag: str, *chunks: bytes) -> bytes:
    """The digest of chunks with their lengths, so that bytes cannot move from one to the next."""
    digest = blake2b(digest_size=16)
    for chunk in (tag.encode(), *chunks):
        digest.update(len(chunk).to_bytes(8, "little"))
        digest.update(chunk)
    return digest.digest()


def _slots(value: object) -> dict[str, object]:
    slots = {}
    for base in type(value).__mro__:
        for name, member in vars(base).items():
            if isinstance(member, MemberDescriptorType) and hasattr(value, name):
                slots[name] = getattr(value, name)
    return slots


def _written(member: Any) -> tuple[Any, ...]:
    """The functions of a method or property, without its descriptor; any other member as it is."""
    if isinstance(member, staticmethod | classmethod):
        return (member.__func__,)
    if isinstance(member, property):
        return member.fget, member.fset, member.fdel
    if isinstance(member, cached_property):
        return (member.func,)
    return (member,)
