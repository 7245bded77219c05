"""Arguments of one kind: an instance, a function, True or False, a text, one of several names, a path."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np

from mlx_patch.errors import FileError, KindError, PatchError, UnknownNameError, did_you_mean, shown

_T = TypeVar("_T")
_LONGEST = 255
"""Bytes of the name of a file."""

_TITLES: dict[type, str] = {mx.array: "mx.array", np.ndarray: "numpy array"}


def instance(name: str, value: object, kind: type[_T], remedy: str = "") -> _T:
    """A value of a class, as it is.

    Args:
        name: The argument's name, for the message.
        value: What a caller gave.
        kind: The class.
        remedy: What to do about it, a sentence.
    Raises:
        KindError: It is of another class.
    """
    if isinstance(value, kind):
        return value
    title = _TITLES.get(kind, kind.__name__)
    article = "an" if title[0] in "AEIOUm" else "a"
    raise KindError(f"`{name}` must be {article} {title}. Got {kind_of(value)}. {remedy}".rstrip())


def function(name: str, value: Any, allowed: str = "a function", remedy: str = "") -> Callable[..., Any]:
    """A value that can be called, and is no class.

    Raises:
        KindError: It is not.
    """
    if callable(value) and not isinstance(value, type):
        return value
    raise KindError(f"`{name}` must be {allowed}. Got {shown(value)}. {remedy}".rstrip())


def flag(name: str, value: object) -> bool:
    """True or False, also numpy's.

    Raises:
        KindError: It is neither: a text that says "no" is true to Python.
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise KindError(f"`{name}` must be True or False. Got {shown(value)}.")


def string(name: str, value: object, remedy: str = "") -> str:
    """A text, as a plain `str`.

    Raises:
        KindError: It is none.
    """
    if isinstance(value, str):
        return str(value)
    raise KindError(f"`{name}` must be a text. Got {shown(value)}. {remedy}".rstrip())


def choice(
    name: str,
    value: object,
    options: Iterable[str],
    allowed: str | None = None,
    error: type[PatchError] = UnknownNameError,
) -> str:
    """One of several names.

    Args:
        name: The argument's name, for the message.
        value: What a caller gave.
        options: The names that there are.
        allowed: What they are, for the message; None lists them.
        error: What to raise.
    Raises:
        UnknownNameError: It is none of them.
    """
    names = tuple(options)
    if isinstance(value, str) and value in names:
        return str(value)
    words = allowed or f"one of {', '.join(names)}"
    raise error(f"`{name}` must be {words}. Got {shown(value)}. {did_you_mean(value, names)}")


def path(name: str, value: object) -> Path:
    """The path of a file or a folder.

    Raises:
        KindError: It is neither a text nor a path.
        FileError: No file system has such a path.
    """
    if not isinstance(value, str | os.PathLike):
        raise KindError(f"`{name}` must be a path. Got {shown(value)}.")
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        raise FileError(f"`{name}` must be a path that a file can have. Got {shown(value)}.") from None
    written = os.fspath(value)
    if not isinstance(written, str):
        raise KindError(f"`{name}` must be a path. Got {shown(value)}.")
    names = map(os.fsencode, Path(written).parts)
    if "\0" in written or any(len(name_) > _LONGEST for name_ in names):
        raise FileError(f"`{name}` must be a path that a file can have. Got {shown(value)}.")
    return Path(written)


def tokenizer(name: str, value: Any) -> Any:
    """A tokenizer, by what it can do; None stays.

    Raises:
        KindError: It is none.
    """
    if value is None or (hasattr(value, "decode") and not isinstance(value, bytes | bytearray)):
        return value
    raise KindError(f"`{name}` must be a tokenizer, with `decode`. Got {shown(value)}.")


def kind_of(value: object) -> str:
    """What a value is, in a word: None and classes by their names, the rest by the names of their classes."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return type(value).__name__
