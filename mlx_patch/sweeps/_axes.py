"""The axes of a sweep: from what a caller chooses to coordinates, and from coordinates to edits."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, cast

from mlx_patch.errors import KindError, SelectionError, UnknownNameError, ValueRefusedError, did_you_mean, listed
from mlx_patch.interventions import Edit, Interpolate, Intervention

NAMES = ("site", "layer", "pos", "head", "neuron", "alpha")
"""What a sweep may go over."""

Coordinate = str | int | float | tuple[int, ...]
"""One name or number, or ints that are patched together."""

Every = Callable[[str], Sequence[Coordinate]]
"""From the name of an axis to all that there is along it."""


@dataclass(frozen=True)
class Grid:
    """The cells of a sweep: the product of its axes, in their order.

    Attributes:
        coords: What stands along each axis, by its name.
        fixed: What `Intervention.at` is given of the rest: `pos=(-1,)`.
        site: The site, where it does not vary.
    """

    coords: Mapping[str, tuple[Coordinate, ...]]
    fixed: Mapping[str, tuple[int, ...]]
    site: str | None

    def edits(self, intervention: Intervention) -> list[tuple[Edit, ...]]:
        """The edits of every cell, the last axis fastest."""
        cells = product(*self.coords.values())
        return [(self._edit(intervention, dict(zip(self.coords, cell, strict=True))),) for cell in cells]

    def _edit(self, intervention: Intervention, chosen: dict[str, Any]) -> Edit:
        site = chosen.pop("site", self.site)
        if "alpha" in chosen:
            intervention = Interpolate(_interpolated(intervention).source, chosen.pop("alpha"))
        return intervention.at(site, **{**self.fixed, **chosen})


def grid_of(
    over: Sequence[str], sites: Sequence[str], chosen: Mapping[str, Sequence[Coordinate] | None], every: Every
) -> Grid:
    """The grid of a sweep.

    Args:
        over: What varies, in order.
        sites: The sites.
        chosen: The caller's choice of layers, positions and so on, by the name of the axis; None is all.
        every: What there is along an axis where nothing is chosen.
    Raises:
        UnknownNameError: `over` has a name that is none.
        ValueRefusedError: A name twice, or a choice that is missing or of no use.
    """
    _refuse_names(over)
    if "site" not in over and len(sites) != 1:
        raise ValueRefusedError(f"`at` must be one site unless `over` has 'site'. Got {listed(sites)}.")
    if chosen.get("alpha") is not None and "alpha" not in over:
        raise ValueRefusedError("`alphas` must be left out unless `over` has 'alpha'. Give `alpha` to Interpolate.")
    coords: dict[str, tuple[Coordinate, ...]] = {}
    for name in over:
        given = chosen.get(name)
        coords[name] = tuple(sites) if name == "site" else tuple(every(name) if given is None else given)
    fixed = {name: _flat(given) for name, given in chosen.items() if name not in over and given is not None}
    return Grid(coords, fixed, None if "site" in over else sites[0])


def choices(name: str, given: Any) -> tuple[Coordinate, ...] | None:
    """What a caller chose along an axis: a number, or numbers and groups of numbers.

    Raises:
        SelectionError: It holds something else, nothing, or something twice.
    Example:
        >>> choices("layers", [0, range(1, 3)])
        (0, (1, 2))
        >>> choices("positions", -1)
        (-1,)
    """
    if given is None:
        return None
    many = tuple(_choice(name, one) for one in (given if isinstance(given, Iterable) else (given,)))
    if not many:
        raise SelectionError(f"`{name}` must choose something. Got {given!r}. Leave it out to choose all.")
    if len(set(many)) < len(many):
        raise SelectionError(f"`{name}` must not name anything twice. Got {given!r}.")
    return many


def windows(layers: Iterable[int], width: int) -> list[tuple[int, ...]]:
    """Layers that are patched together: each and those after it, `width` of them, as far as there are so many.

    Source:
        Meng et al. 2022, https://arxiv.org/abs/2202.05262, section 2.2, restore windows of ten layers.
    Example:
        >>> windows(range(4), 3)
        [(0, 1, 2), (1, 2, 3)]
    """
    layers = tuple(layers)
    if not 1 <= width <= len(layers):
        raise ValueRefusedError(f"`width` must be 1 to {len(layers)}, the number of layers. Got {width}.")
    return [layers[first : first + width] for first in range(len(layers) - width + 1)]


def up_to(layers: Iterable[int]) -> list[tuple[int, ...]]:
    """Layers that are patched together: all up to each one.

    Example:
        >>> up_to(range(3))
        [(0,), (0, 1), (0, 1, 2)]
    """
    layers = tuple(layers)
    return [layers[: last + 1] for last in range(len(layers))]


def onwards(layers: Iterable[int]) -> list[tuple[int, ...]]:
    """Layers that are patched together: each one and all after it.

    Example:
        >>> onwards(range(3))
        [(0, 1, 2), (1, 2), (2,)]
    """
    layers = tuple(layers)
    return [layers[first:] for first in range(len(layers))]


def _choice(name: str, one: object) -> Coordinate:
    if isinstance(one, Iterable) and not isinstance(one, str):
        return tuple(_number(name, part) for part in one)
    return _number(name, one)


def _number(name: str, one: object) -> int | float:
    if isinstance(one, bool) or not hasattr(one, "__index__" if name != "alphas" else "__float__"):
        kind = "numbers" if name == "alphas" else "ints, or groups of ints"
        raise SelectionError(f"`{name}` must hold {kind}. Got {one!r}.")
    return float(cast(float, one)) if name == "alphas" else int(cast(int, one))


def _flat(given: Sequence[Coordinate]) -> tuple[int, ...]:
    """A choice that is the same in every cell, as `Intervention.at` takes it."""
    parts = (one if isinstance(one, tuple) else (cast(int, one),) for one in given)
    return tuple(n for part in parts for n in part)


def _refuse_names(over: Sequence[str]) -> None:
    for name in over:
        if name not in NAMES:
            near = did_you_mean(str(name), NAMES)
            raise UnknownNameError(f"`over` must hold axes of a sweep. Got {name!r}. {near}")
    if not over or len(set(over)) < len(over):
        raise ValueRefusedError(f"`over` must name at least one axis, and each once. Got {tuple(over)}.")


def _interpolated(intervention: Intervention) -> Interpolate:
    if not isinstance(intervention, Interpolate):
        raise KindError(
            f"`intervention` must be an Interpolate where `over` has 'alpha'. Got {intervention!r}. "
            "Write mp.Interpolate(source, 1.0)."
        )
    return intervention
