"""What a value holds, as one text that is equal where every bit is: arrays by their dtype, shape and digest."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

import mlx_patch as mp
from mlx_patch.results import CellResult

PASSING = frozenset(("seconds", "stamp"))
"""Fields that say how long something took, or when a file was written."""

_WHERE_AND_WHEN = re.compile(r' at 0x[0-9a-f]+|"seconds": [-+.e\d]+')


def text_of(value: Any, folder: Path) -> str:
    """The contents of a value, without the name of a folder, addresses of objects, and times."""
    text = "\n".join(_lines(value, "", 0))
    return _WHERE_AND_WHEN.sub("", text.replace(str(folder), "<folder>"))


def first_difference(text: str, expected: str) -> str:
    """The first line of two texts that differs."""
    lines, others = text.splitlines(), expected.splitlines()
    for line, other in zip(lines, others, strict=False):
        if line != other:
            return f"{line[:300]} where alone it is {other[:300]}"
    return f"{len(lines)} lines where alone there are {len(others)}"


def digest_of_model(model: nn.Module) -> str:
    """A digest of every weight, by name and bits."""
    digest = blake2b(digest_size=16)
    for name, array in tree_flatten(model.parameters()):
        digest.update(f"{name} {_of_array(array)}".encode())
    return digest.hexdigest()


def _lines(value: Any, path: str, depth: int) -> Iterator[str]:
    parts = _parts(value) if depth < 12 else None
    if parts is None:
        yield f"{path}: {_leaf(value)}"
        return
    yield f"{path}: {type(value).__name__} of {len(parts)}"
    for name, part in parts.items():
        yield from _lines(part, f"{path}.{name}", depth + 1)


def _parts(value: Any) -> Mapping[str, Any] | None:
    """What a value is made of, by name; None of what has no parts."""
    match value:
        case mp.ActivationCache():
            parts = {str(site): array for site, array in value.items()}
            return {**parts, "tokens": value.tokens, "positions": list(value.positions)}
        case mp.ActivationStore():
            return {"sites": list(value.sites), **{str(number): cache for number, cache in enumerate(value)}}
        case CellResult():
            arrays = {name: getattr(value, name) for name in value.further_arrays}
            named = {"values": value.values, "baseline": value.baseline, "run_mask": value.run_mask, **arrays}
            return {**named, "axes": list(value.axes), "coords": value.coords, "provenance": value.provenance}
        case mp.Intervention() | mp.Edit() | mp.HookedModel() | str() | bytes():
            return None
        case dict():
            return {str(key): entry for key, entry in value.items() if key not in PASSING}
        case list() | tuple():
            return {str(number): entry for number, entry in enumerate(value)}
        case _ if hasattr(value, "logprobs"):
            return {"text": value.text, "token": value.token, "logprobs": value.logprobs}
        case _ if is_dataclass(value) and not isinstance(value, type):
            names = [field.name for field in fields(value) if field.repr and field.name not in PASSING]
            return {name: getattr(value, name) for name in names}
    return None


def _leaf(value: Any) -> str:
    match value:
        case mx.array() | np.ndarray():
            return _of_array(value)
        case BaseException():
            return f"{type(value).__name__}: {value}"
        case Path():
            return f"file of {value.name}"
        case str() | bytes() | bool() | int() | float() | None:
            return repr(value)
        case mp.Intervention() | mp.Edit() | mp.HookedModel() | mp.Site() | np.generic() | slice() | range():
            return repr(value)
    return type(value).__name__


def _of_array(array: Any) -> str:
    """Dtype, shape, a digest of the bits, and the first numbers, for who looks for what went wrong."""
    dtype = str(array.dtype)
    if isinstance(array, mx.array):
        bits = array.view(mx.uint16) if array.dtype == mx.bfloat16 else array
        array = np.array(bits)
    if array.dtype == object:
        return f"objects {array.tolist()!r}"
    digest = blake2b(np.ascontiguousarray(array).tobytes(), digest_size=12).hexdigest()
    return f"{dtype} {array.shape} {digest} {array.reshape(-1)[:3].tolist()}"
