"""Axes and coordinates of a result: their names, their text form, and the place of a label."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from mlx_patch import arguments
from mlx_patch.errors import (
    KindError,
    SelectionError,
    ShapeError,
    UnknownNameError,
    ValueRefusedError,
    did_you_mean,
    listed,
    shown,
)
from mlx_patch.results._axes import is_counted, known_axes


def cell_at(place: Sequence[Any], axes: Sequence[str], coords: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """The coordinates of a cell by axis, with its token beside its position.

    Example:
        >>> cell_at((1, 0), ("layer", "pos"), {"layer": (3, 4), "pos": (7,), "token": (" Mary",)})
        {'layer': 4, 'pos': 7, 'token': ' Mary'}
    """
    where: dict[str, Any] = {}
    for axis, index in zip(axes, place, strict=True):
        where[axis] = coords[axis][index]
        if axis == "pos" and "token" in coords:
            where["token"] = coords["token"][index]
    return where


Coordinate = str | int | float | tuple[int, ...]
"""The label of one place of an axis: the name of a site, a number, or a group."""


def checked_axes(axes: Iterable[str]) -> tuple[str, ...]:
    """The axes as a tuple: known ones, each once, with `metric` and `example` last.

    Raises:
        UnknownNameError: There is no such axis.
        ValueRefusedError: An axis is there twice, or `example` or `metric` is not where it belongs.
    """
    axes = arguments.entries("axes", axes, "a tuple of axes")
    allowed = (*known_axes(), "metric", "example")
    axes = tuple(arguments.choice("axes", axis, allowed, "axes of a sweep") for axis in axes)
    has_doubles = len(set(axes)) != len(axes)
    if has_doubles or axes[-1:] != ("example",) or "metric" in axes[:-2]:
        raise ValueRefusedError(
            f"`axes` must be different, with 'example' last and 'metric', if there, before it. Got {axes}. Sort them."
        )
    return axes


def checked_coords(
    coords: Mapping[str, Iterable[Any]], axes: tuple[str, ...], shape: tuple[int, ...]
) -> dict[str, tuple[Any, ...]]:
    """The coordinates as tuples of plain Python values: one tuple per axis, and `token` along `pos` if given.

    Raises:
        UnknownNameError: Coordinates belong to no axis.
        ShapeError: There are more or fewer axes than `shape` has, or an axis lacks coordinates or has too many.
        ValueRefusedError: An axis is empty, or a coordinate is there twice.
    """
    if len(shape) != len(axes):
        raise ShapeError(f"`values` must have the axes {listed(axes)}. Got shape {shape}. Name each of its axes.")
    allowed = set(axes)
    if "pos" in axes:
        allowed.add("token")
    arguments.mapping("coords", coords, "a mapping of axes to their coordinates")
    if extra := set(coords) - allowed:
        raise UnknownNameError(
            f"`coords` must belong to the axes {listed(axes)}, or be 'token' beside 'pos'. "
            f"Got {listed(sorted(map(str, extra)))}. Leave them out."
        )
    checked = {name: _checked_labels(name, coords[name]) for name in coords}
    sizes = dict(zip(axes, shape, strict=True))
    if "token" in checked:
        sizes["token"] = sizes["pos"]
    for name, size in sizes.items():
        _check_labels(name, checked.get(name, ()), size)
    return checked


def _checked_labels(name: str, labels: Any) -> tuple[Any, ...]:
    entries = arguments.entries("coords", labels, f"a mapping of axes to lists, also along {name!r}")
    checked = tuple(map(_python_value, entries))
    for label in checked:
        if not isinstance(label, int | float | str | tuple):
            raise KindError(f"`coords` must be numbers, texts or groups along {name!r}. Got {shown(label)}.")
    return checked


def _check_labels(name: str, labels: tuple[Any, ...], size: int) -> None:
    """Refuse labels that are not one per place, or not different; tokens may repeat."""
    if len(labels) != size:
        raise ShapeError(
            f"`coords` must have one entry per place of `values` along {name!r}, {size}. Got {len(labels)}. Give as "
            "many."
        )
    if size == 0:
        raise ValueRefusedError(f"`values` must not be empty. Got no place along {shown(name)}. Sweep at least one.")
    if name != "token" and len(set(labels)) != size:
        raise ValueRefusedError(f"`coords` must be different along {name!r}. Got {labels}. Remove duplicates.")


def _python_value(label: Any) -> Any:
    """A label without numpy's scalar types, and with tuples for sequences."""
    if isinstance(label, np.generic):
        return label.item()
    if isinstance(label, tuple | list | range):
        return tuple(map(_python_value, label))
    return label


def label_text(label: Any) -> str:
    """The text of a coordinate beside an axis.

    Example:
        >>> label_text(12), label_text((4, 5, 6)), label_text((4, 7)), label_text(0.5), label_text("resid_post")
        ('12', '4-6', '4,7', '0.5', 'resid_post')
    """
    if isinstance(label, float):
        return f"{label:g}"
    if not isinstance(label, tuple):
        return str(label)
    if _is_consecutive(label):
        return f"{label[0]}-{label[-1]}"
    return ",".join(map(str, label))


def _is_consecutive(group: tuple[Any, ...]) -> bool:
    if len(group) < 2 or not all(isinstance(number, int) for number in group):
        return False
    return all(after == before + 1 for before, after in pairwise(group))


def where_text(where: Mapping[str, Any]) -> str:
    """The text of a cell's coordinates.

    Example:
        >>> where_text({"layer": 12, "pos": 7, "token": " Mary"})
        "layer 12, pos 7 (' Mary')"
    """
    texts = {axis: f"{axis} {label_text(label)}" for axis, label in where.items() if axis != "token"}
    if "token" in where and "pos" in texts:
        texts["pos"] += f" ({where['token']!r})"
    return ", ".join(texts.values())


def range_text(axis: str, labels: Sequence[Any]) -> str:
    """The text of an axis: its size, and its labels or their range.

    Example:
        >>> range_text("layer", range(30)), range_text("site", ["z", "mlp_out"])
        ('layer 30 (0 to 29)', 'site 2 (z, mlp_out)')
    """
    texts = [label_text(label) for label in labels]
    is_numbered = is_counted(axis) or axis == "example"
    if len(texts) > 6 or (len(texts) > 2 and is_numbered):
        return f"{axis} {len(texts)} ({texts[0]} to {texts[-1]})"
    return f"{axis} {len(texts)} ({', '.join(texts)})"


def place_of(axis: str, labels: tuple[Any, ...], label: Any) -> int:
    """The index of a label along an axis; along layers, positions, heads and neurons, -1 is the last one swept.

    Raises:
        KindError: The label is a slice, an array or another thing that no axis has.
        SelectionError: No such label is there.
    """
    label = _python_value(label)
    if isinstance(label, bool) or not isinstance(label, int | float | str | tuple):
        raise KindError(
            f"`{axis}` must be a coordinate or a list of them. Got {type(label).__name__}. "
            f"Give one of `coords[{axis!r}]`."
        )
    if label in labels:
        return labels.index(label)
    if is_counted(axis) and isinstance(label, int) and -len(labels) <= label < 0:
        return len(labels) + label
    suggestion = did_you_mean(str(label), map(label_text, labels))
    raise SelectionError(f"`{axis}` must be among the coordinates of the result. Got {shown(label)}. {suggestion}")
