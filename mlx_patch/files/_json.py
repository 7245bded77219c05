"""JSON of files, which may hold anything: bounded in its size, its depth and its numbers."""

import json
import os
from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Any, BinaryIO

from mlx_patch.files._opening import Malformed, open_checked, read_at

_DEEPEST = 100
"""Lists and mappings inside each other, of which the library's own files have at most ten."""

_LONGEST_NUMBER = 300
"""Digits: whole numbers of more are no float."""

LARGEST_JSON = 2**28
"""Bytes of JSON that a file may have."""


def strict_json(text: str | bytes, *, allow_nan: bool = False) -> Any:
    """The value of a JSON text, without repeated names, and nested no deeper than code can follow.

    Args:
        text: The text; bytes are in UTF-8.
        allow_nan: Whether numbers may be NaN or infinite, as Python's own writer writes them.
    Raises:
        Malformed: It is no such text.
    """
    hooks: dict[str, Any] = {"object_pairs_hook": _unique_names, "parse_int": _bounded_int}
    if not allow_nan:
        hooks |= {"parse_constant": _refuse_constant, "parse_float": _finite_float}
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        value = json.loads(text, **hooks)
    except Malformed:
        raise
    except (ValueError, RecursionError) as error:
        raise Malformed(f"is damaged: {error}") from error
    _refuse_nesting(value)
    return value


def json_of_file(
    path: str | os.PathLike[str], *, largest: int = LARGEST_JSON, follow: bool = True, allow_nan: bool = False
) -> Any:
    """The value of a JSON file.

    Args:
        path: The file.
        largest: The bytes that it may have.
        follow: Whether it may be a symbolic link.
        allow_nan: As in `strict_json`.
    Raises:
        OSError: There is no such file, or it cannot be read.
        Malformed: It is no regular file, is larger, or is no such JSON.
    """
    with open_checked(path, follow=follow) as file:
        return strict_json(read_bounded(file, largest), allow_nan=allow_nan)


def read_bounded(file: BinaryIO, largest: int) -> bytes:
    """All bytes of a file.

    Raises:
        Malformed: There are more than `largest`; they are not read.
    """
    size = os.fstat(file.fileno()).st_size
    if size > largest:
        raise Malformed(f"has {size} bytes, where at most {largest} are read")
    return read_at(file, 0, size)


def _refuse_nesting(value: object) -> None:
    """Refuse values nested too deeply for code that follows them by calling itself.

    Raises:
        Malformed: They are.
    """
    level: list[Any] = [value]
    for _ in range(_DEEPEST):
        level = [entry for container in level for entry in _entries(container)]
        if not level:
            return
    raise Malformed(f"is damaged: its values are nested more than {_DEEPEST} deep")


def _entries(value: object) -> Iterable[Any]:
    """The lists and mappings inside a list or a mapping."""
    entries: Iterable[Any] = ()
    if isinstance(value, dict):
        entries = value.values()
    elif isinstance(value, list):
        entries = value
    return [entry for entry in entries if isinstance(entry, dict | list)]


def _unique_names(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise Malformed(f"is damaged: it names {name!r} twice")
        values[name] = value
    return values


def _refuse_constant(name: str) -> Any:
    raise Malformed(f"is damaged: {name} is not a JSON number")


def _finite_float(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise Malformed(f"is damaged: {text[:40]} is larger than any number")
    return number


def _bounded_int(text: str) -> int:
    if len(text) > _LONGEST_NUMBER:
        raise Malformed(f"is damaged: it has a number of {len(text)} digits")
    return int(text)
