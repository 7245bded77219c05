"""How two identities differ, in words."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlx_patch.errors import listed

_HASH = re.compile("[0-9a-f]{32}")

Identity = Mapping[str, Any]
"""JSON values by name. Equal identities give equal numbers."""


def differences(file: Identity, here: Identity) -> Iterator[str]:
    """In what two identities differ, as clauses: "another prompt (number 2 of 3)"; none where they are the same.

    Example:
        >>> list(differences({"prompt": [["2 tokens", "ab"]]}, {"prompt": [["3 tokens", "cd"]]}))
        ['another prompt (number 1 of 1: 2 tokens in the file, 3 tokens here)']
        >>> list(differences({"model": {"bits": "4", "dtype": "x"}}, {"model": {"bits": "8", "dtype": "x"}}))
        ["another model (bits: '4' in the file, '8' here)"]
    """
    for name in dict.fromkeys((*here, *file)):
        one, other = file.get(name), here.get(name)
        if one == other or _without_name(one) == _without_name(other):
            continue
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield f"another {name} ({_of_mappings(one, other)})"
        elif isinstance(one, list) and isinstance(other, list):
            yield f"another {name} ({_of_lists(one, other)})"
        else:
            yield f"another {name}"


def _without_name(value: Any) -> Any:
    """A model is the same wherever it was loaded from."""
    return {**value, "name": ""} if isinstance(value, Mapping) and "weights" in value else value


def _of_mappings(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    differing = [name for name in dict.fromkeys((*other, *one)) if one.get(name) != other.get(name)]
    return ", ".join(_of_values(name, one.get(name), other.get(name)) for name in differing)


def _of_values(name: str, one: object, other: object) -> str:
    if all(isinstance(value, str) and _HASH.fullmatch(value) for value in (one, other)):
        return name
    return f"{name}: {one!r} in the file, {other!r} here"


def _of_lists(one: Sequence[Sequence[str]], other: Sequence[Sequence[str]]) -> str:
    if len(one) != len(other):
        return f"{len(one)} in the file, {len(other)} here"
    differing = [n for n, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
    n = differing[0]
    said = f"{one[n][0]} in the file, {other[n][0]} here" if one[n][0] != other[n][0] else f"{one[n][0]}, which differs"
    more = f" and {listed(k + 1 for k in differing[1:4])}" if len(differing) > 1 else ""
    return f"number {n + 1}{more} of {len(one)}: {said}"
