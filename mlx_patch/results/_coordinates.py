"""Axes and coordinates of a result: which there are, how they are written, and where a label stands."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from mlx_patch.errors import (
    KindError,
    SelectionError,
    ShapeError,
    UnknownNameError,
    ValueRefusedError,
    did_you_mean,
    listed,
)


def cell_at(place: Sequence[Any], axes: Sequence[str], coords: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """The coordinates of a cell by axis, with its token beside its position.

    Example:
        >>> cell_at((1, 0), ("layer", "pos"), {"layer": (3, 4), "pos": (7,), "token": (" Mary",)})
        {'layer': 4, 'pos': 7, 'token': ' Mary'}
    """
    where: dict[str, Any] = {}
    for axis, index in zip(axes, place, strict=True):
        where[axis] = coords[axis][index]
        where |= {"token": coords["token"][index]} if axis == "pos" and "token" in coords else {}
    return where


Coordinate = str | int | float | tuple[int, ...]
"""What stands at one place of an axis: the name of a site, or a number or group."""


AXES = ("site", "layer", "pos", "head", "neuron", "alpha", "cell")
"""What a sweep can run over. After these come `metric`, where there are several, and `example`."""


COUNTED = ("layer", "pos", "head", "neuron")
"""Axes of whole numbers, along which -1 is the last."""


def checked_axes(axes: Iterable[str]) -> tuple[str, ...]:
    """The axes as a tuple, in which each is known and there once, `example` last and `metric` before it.

    Raises:
        UnknownNameError: There is no such axis.
        ValueRefusedError: An axis is there twice, or `example` or `metric` is not where it belongs.
    """
    axes = tuple(axes)
    for axis in axes:
        if axis not in (*AXES, "metric", "example"):
            known = did_you_mean(axis, [*AXES, "metric", "example"])
            raise UnknownNameError(f"`axes` must be axes of a sweep. Got {axis!r}. {known}")
    if len(set(axes)) != len(axes) or axes[-1:] != ("example",) or "metric" in axes[:-2]:
        raise ValueRefusedError(
            f"`axes` must be different, with 'example' last and 'metric', if there, before it. Got {axes}. Sort them."
        )
    return axes


def checked_coords(
    coords: Mapping[str, Iterable[Any]], axes: tuple[str, ...], shape: tuple[int, ...]
) -> dict[str, tuple[Any, ...]]:
    """The coordinates as tuples of plain Python values: one tuple an axis, and `token` beside `pos` where given.

    Raises:
        UnknownNameError: Coordinates belong to no axis.
        ShapeError: There are more or fewer axes than `shape` has, or an axis lacks coordinates or has too many.
        ValueRefusedError: An axis is empty, or a coordinate is there twice.
    """
    if len(shape) != len(axes):
        raise ShapeError(f"`values` must have the axes {listed(axes)}. Got shape {shape}. Name one axis each.")
    if extra := set(coords) - set(axes) - ({"token"} if "pos" in axes else set()):
        raise UnknownNameError(
            f"`coords` must belong to the axes {listed(axes)}, or be 'token' beside 'pos'. "
            f"Got {listed(sorted(extra))}. Leave them out."
        )
    plain = {name: tuple(_plain(label) for label in coords[name]) for name in coords}
    sizes = dict(zip(axes, shape, strict=True))
    sizes |= {"token": sizes["pos"]} if "token" in plain else {}
    for name, size in sizes.items():
        if len(plain.get(name, ())) != size:
            raise ShapeError(
                f"`coords` must have one entry a place of `values` along {name!r}, {size}. "
                f"Got {len(plain.get(name, ()))}. Give as many."
            )
        if size == 0:
            raise ValueRefusedError(f"`values` must not be empty. Got no place along {name!r}. Sweep at least one.")
        if name != "token" and len(set(plain[name])) != size:
            raise ValueRefusedError(f"`coords` must be different along {name!r}. Got {plain[name]}. Leave doubles out.")
    return plain


def _plain(label: Any) -> Any:
    if isinstance(label, np.generic):
        return label.item()
    return tuple(_plain(one) for one in label) if isinstance(label, tuple | list | range) else label


def label_text(label: Any) -> str:
    """A coordinate as it is written beside an axis.

    Example:
        >>> label_text(12), label_text((4, 5, 6)), label_text((4, 7)), label_text(0.5), label_text("resid_post")
        ('12', '4-6', '4,7', '0.5', 'resid_post')
    """
    if isinstance(label, float):
        return f"{label:g}"
    if not isinstance(label, tuple):
        return str(label)
    texts = [str(one) for one in label]
    run = len(label) > 1 and all(isinstance(one, int) for one in label) and all(b == a + 1 for a, b in pairwise(label))
    return f"{texts[0]}-{texts[-1]}" if run else ",".join(texts)


def where_text(where: Mapping[str, Any]) -> str:
    """A cell in words.

    Example:
        >>> where_text({"layer": 12, "pos": 7, "token": " Mary"})
        "layer 12, pos 7 (' Mary')"
    """
    token = f" ({where['token']!r})" if "token" in where else ""
    parts = [f"{axis} {label_text(label)}{token if axis == 'pos' else ''}" for axis, label in where.items()]
    return ", ".join(part for part, axis in zip(parts, where, strict=True) if axis != "token")


def range_text(axis: str, labels: Sequence[Any]) -> str:
    """An axis in words: how many places, and from where to where.

    Example:
        >>> range_text("layer", range(30)), range_text("site", ["z", "mlp_out"])
        ('layer 30 (0 to 29)', 'site 2 (z, mlp_out)')
    """
    texts = [label_text(label) for label in labels]
    if len(texts) > 2 and (len(texts) > 6 or axis in COUNTED or axis == "example"):
        return f"{axis} {len(texts)} ({texts[0]} to {texts[-1]})"
    return f"{axis} {len(texts)} ({', '.join(texts)})"


def place_of(axis: str, labels: tuple[Any, ...], wanted: Any) -> int:
    """The place of a label along an axis; along layers, positions, heads and neurons -1 is the last that is there.

    Raises:
        KindError: The label is a slice, an array or another thing that no axis has.
        SelectionError: No such label is there.
    """
    wanted = _plain(wanted)
    if isinstance(wanted, bool) or not isinstance(wanted, int | float | str | tuple):
        raise KindError(
            f"`{axis}` must be a coordinate or a list of them. Got {type(wanted).__name__}. "
            f"Give one of `coords[{axis!r}]`."
        )
    if wanted in labels:
        return labels.index(wanted)
    if axis in COUNTED and isinstance(wanted, int) and -len(labels) <= wanted < 0:
        return len(labels) + wanted
    known = did_you_mean(str(wanted), [label_text(label) for label in labels])
    raise SelectionError(f"`{axis}` must be among the coordinates of the result. Got {wanted!r}. {known}")
