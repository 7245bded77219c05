"""The differences between two identities, as text."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlx_patch.errors import brief, listed

_HASH = re.compile("[0-9a-f]{32}")

Identity = Mapping[str, Any]
"""JSON values by name. Equal identities give equal numbers."""


def differences(file: Identity, here: Identity) -> Iterator[str]:
    """The differences between two identities, as clauses: "another prompt (number 2 of 3)"; none if they are equal.

    Args:
        file: The identity in a file.
        here: The identity that it is compared with.

    Example:
        >>> list(differences({"prompt": [["2 tokens", "ab"]]}, {"prompt": [["3 tokens", "cd"]]}))
        ['another prompt (number 1 of 1: 2 tokens in the file, 3 tokens here)']
        >>> list(differences({"model": {"bits": "4", "dtype": "x"}}, {"model": {"bits": "8", "dtype": "x"}}))
        ["another model (bits: '4' in the file, '8' here)"]
    """
    for name in dict.fromkeys((*here, *file)):
        stored, current = file.get(name), here.get(name)
        if stored == current or _without_name(stored) == _without_name(current):
            continue
        if isinstance(stored, Mapping) and isinstance(current, Mapping):
            yield f"another {name} ({_mapping_difference(stored, current)})"
        elif isinstance(stored, list) and isinstance(current, list):
            yield f"another {name} ({_list_difference(stored, current)})"
        else:
            yield f"another {name}"


def _without_name(value: Any) -> Any:
    """The identity of a model without the folder it was loaded from; any other value as it is."""
    if isinstance(value, Mapping) and "weights" in value:
        return {**value, "name": ""}
    return value


def _mapping_difference(stored: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    clauses = []
    for name in dict.fromkeys((*current, *stored)):
        if stored.get(name) != current.get(name):
            clauses.append(_value_difference(name, stored.get(name), current.get(name)))
    return ", ".join(clauses)


def _value_difference(name: str, stored: object, current: object) -> str:
    """The name alone for two hashes, which would say nothing; otherwise the values too."""
    if _is_hash(stored) and _is_hash(current):
        return name
    return f"{name}: {stored!r} in the file, {current!r} here"


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def _first_text(entry: object) -> str:
    """The text that describes an entry; its repr, where a file has no such entry."""
    if isinstance(entry, list | tuple) and entry:
        return str(entry[0])
    return brief(entry)


def _list_difference(stored: Sequence[object], current: Sequence[object]) -> str:
    """The first entry that differs, described by its first text, and the numbers of three more."""
    if len(stored) != len(current):
        return f"{len(stored)} in the file, {len(current)} here"
    differing = [n for n in range(len(stored)) if stored[n] != current[n]]
    first = differing[0]
    stored_text, current_text = _first_text(stored[first]), _first_text(current[first])
    difference = f"{stored_text}, which differs"
    if stored_text != current_text:
        difference = f"{stored_text} in the file, {current_text} here"
    numbers = str(first + 1)
    if len(differing) > 1:
        numbers = f"{numbers} and {listed(n + 1 for n in differing[1:4])}"
    return f"number {numbers} of {len(stored)}: {difference}"
