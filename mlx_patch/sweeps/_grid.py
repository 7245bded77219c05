"""The axes of a sweep: from what a caller chooses to coordinates, and from coordinates to edits."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from operator import index, or_
from typing import Any, SupportsFloat, SupportsIndex

from typing_extensions import TypeIs

from mlx_patch.errors import KindError, SelectionError, UnknownNameError, ValueRefusedError, did_you_mean, listed
from mlx_patch.interventions import Edit, Interpolate, Intervention
from mlx_patch.positions import Selector

NAMES = ("site", "layer", "pos", "head", "neuron", "alpha")
"""What a sweep may go over."""


Chosen = int | float | tuple[int, ...] | Selector
"""A number, or ints that are patched together; of positions also a selector, which each prompt resolves."""


Every = Callable[[str], Sequence[Chosen]]
"""From the name of an axis to all that there is along it."""


@dataclass(frozen=True)
class Grid:
    """The cells of a sweep: the product of its axes, in their order.

    Attributes:
        coords: What stands along each axis, by its name.
        fixed: What `Intervention.at` is given of the rest: `pos=(-1,)`.
        site: The site, where it does not vary.
    """

    coords: Mapping[str, tuple[str | Chosen, ...]]
    fixed: Mapping[str, tuple[int, ...] | Selector]
    site: str | None

    def edits(self, intervention: Intervention) -> list[tuple[Edit, ...]]:
        """The edits of every cell, the last axis fastest.

        Raises:
            KindError: There are alphas, and the intervention is no `Interpolate`.
            SelectionError: The site cannot have such a choice.
        """
        by_alpha = {alpha: _interpolated(intervention, alpha) for alpha in self.coords.get("alpha", ())}
        cells = product(*self.coords.values())
        return [(self._edit(intervention, by_alpha, dict(zip(self.coords, cell, strict=True))),) for cell in cells]

    def _edit(self, intervention: Intervention, by_alpha: Mapping[Any, Intervention], chosen: dict[str, Any]) -> Edit:
        site, alpha = chosen.pop("site", self.site), chosen.pop("alpha", None)
        return by_alpha.get(alpha, intervention).at(site, **{**self.fixed, **chosen})


def grid_of(
    over: Sequence[str], sites: Sequence[str], chosen: Mapping[str, Sequence[Chosen] | None], every: Every
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
        raise ValueRefusedError(f"`at` must be one site unless `over` has 'site'. Got {listed(sites)}. Add 'site'.")
    if "alpha" not in over and (alphas := chosen.get("alpha")) is not None:
        raise ValueRefusedError(
            f"`alphas` must be left out unless `over` has 'alpha'. Got {listed(alphas)}. "
            "Give one to Interpolate, or several with over=('alpha',)."
        )
    coords: dict[str, tuple[str | Chosen, ...]] = {}
    for name in over:
        given = chosen.get(name)
        coords[name] = tuple(sites) if name == "site" else tuple(every(name) if given is None else given)
    fixed = {name: together(given) for name, given in chosen.items() if name not in over and given is not None}
    return Grid(coords, fixed, None if "site" in over else sites[0])


def choices(name: str, given: object, size: int | None = None) -> tuple[Chosen, ...] | None:
    """What a caller chose along an axis: a number, a slice, or numbers and groups of numbers.

    Args:
        name: The argument: "layers", "positions", "heads", "neurons" or "alphas", which alone has no groups.
        given: What came.
        size: How many there are, where slices mean something.
    Raises:
        SelectionError: It holds something else, nothing, or something twice.
    Example:
        >>> choices("layers", [0, range(1, 3)])
        (0, (1, 2))
        >>> choices("positions", -1)
        (-1,)
        >>> choices("positions", slice(-2, None), 8)
        (6, 7)
    """
    if given is None:
        return None
    whole = _spread(given, size)
    many = tuple(_choice(name, _spread(one, size)) for one in (whole if _is_group(whole) else (whole,)))
    if not many or () in many:
        raise SelectionError(f"`{name}` must choose something. Got {given!r}. Leave it out to choose all.")
    refuse_repeated_choices(name, given, many)
    return many


def _spread(one: object, size: int | None) -> object:
    """The numbers of a slice, where it is one."""
    return range(*one.indices(size)) if isinstance(one, slice) and size is not None else one


def refuse_repeated_choices(name: str, given: object, many: Sequence[object]) -> None:
    """Refuse what names one thing twice: as 9 and as -1, in one group or in two groups of the same numbers.

    Raises:
        SelectionError: It does.
    Example:
        >>> refuse_repeated_choices("heads", [(0, 1), (1, 2)], [(0, 1), (1, 2)])
    """
    groups = [tuple(choice) if isinstance(choice, tuple) else (choice,) for choice in many]
    doubled = any(len(set(group)) < len(group) for group in groups)
    if doubled or len(set(map(frozenset, groups))) < len(groups):
        raise SelectionError(f"`{name}` must not name anything twice. Got {given!r}. Leave one of them out.")


def _is_group(one: object) -> TypeIs[Iterable[object]]:
    """Whether it holds several; an array of no axes is one number."""
    return isinstance(one, Iterable) and not isinstance(one, str) and getattr(one, "ndim", 1) > 0


def _choice(name: str, one: object) -> Chosen:
    if isinstance(one, Selector) and name == "positions":
        return one
    if name == "alphas":
        return _alpha(one)
    return tuple(_index(name, part) for part in one) if _is_group(one) else _index(name, one)


def _index(name: str, one: object) -> int:
    if isinstance(one, bool) or not isinstance(one, SupportsIndex) or _is_group(one):
        remedy = "Write [0, 1] or [(0, 1), 2]."
        if isinstance(one, slice):
            remedy = "Write range(1, 4), say; for positions of prompts of several lengths mp.pos.where(...)."
        raise SelectionError(f"`{name}` must hold ints, or groups of ints. Got {one!r}. {remedy}")
    return index(one)


def _alpha(one: object) -> float:
    if isinstance(one, bool) or not isinstance(one, SupportsFloat) or _is_group(one):
        raise SelectionError(f"`alphas` must hold numbers. Got {one!r}. Write [0.0, 0.5, 1.0].")
    return float(one)


def together(given: Sequence[Chosen]) -> tuple[int, ...] | Selector:
    """Choices in one, as `Intervention.at` takes what is the same in every cell.

    Raises:
        SelectionError: Selectors among numbers.
    """
    if not any(isinstance(one, Selector) for one in given):
        return flat(given)
    selectors = [one for one in given if isinstance(one, Selector)]
    if len(selectors) < len(given):
        raise SelectionError(
            f"`positions` must be selectors or numbers where `over` has no 'pos'. Got both: {listed(given)}. "
            "Write mp.pos.last for -1."
        )
    return reduce(or_, selectors)


def flat(given: Iterable[Chosen]) -> tuple[int, ...]:
    """Numbers and groups of numbers in one row.

    Example:
        >>> flat([0, (1, 2)])
        (0, 1, 2)
    """
    parts = (one if isinstance(one, tuple) else (int(one),) for one in given if not isinstance(one, Selector))
    return tuple(n for part in parts for n in part)


def _refuse_names(over: Sequence[str]) -> None:
    for name in over:
        if name not in NAMES:
            near = did_you_mean(str(name), NAMES)
            raise UnknownNameError(f"`over` must hold axes of a sweep. Got {name!r}. {near}")
    if not over or len(set(over)) < len(over):
        raise ValueRefusedError(
            f"`over` must name at least one axis, and each once. Got {tuple(over)}. Write over=('layer',), say."
        )


def _interpolated(intervention: Intervention, alpha: Any) -> Interpolate:
    if not isinstance(intervention, Interpolate):
        raise KindError(
            f"`intervention` must be an Interpolate where `over` has 'alpha'. Got {intervention!r}. "
            "Write mp.Interpolate(source, 1.0)."
        )
    return Interpolate(intervention.source, alpha)
