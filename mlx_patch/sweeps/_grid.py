"""The axes of a sweep: from the choices of a caller to coordinates, and from coordinates to edits."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from operator import index, or_
from typing import Any, SupportsFloat, SupportsIndex, cast

from typing_extensions import TypeIs

from mlx_patch.errors import SelectionError, UnknownNameError, ValueRefusedError, did_you_mean, listed
from mlx_patch.interventions import Edit, Intervention
from mlx_patch.positions import Selector
from mlx_patch.results import CHOSEN_AXES

NAMES = ("site", *(axis.name for axis in CHOSEN_AXES))
"""The axes that a sweep may have."""


AxisChoice = int | float | tuple[int, ...] | Selector
"""A number, or ints that are patched together; of positions also a selector, which each prompt resolves."""


AxisRange = Callable[[str], Sequence[AxisChoice]]
"""From the name of an axis to all that there is along it."""


@dataclass(frozen=True)
class Grid:
    """The cells of a sweep: the product of its axes, in their order.

    Attributes:
        coords: The coordinates along each axis, by its name.
        fixed: Arguments of `Intervention.at` that are the same in every cell: `pos=(-1,)`.
        site: The site, where it does not vary.
    """

    coords: Mapping[str, tuple[str | AxisChoice, ...]]
    fixed: Mapping[str, tuple[int, ...] | Selector]
    site: str | None

    def edits(self, intervention: Intervention) -> list[tuple[Edit, ...]]:
        """The edits of every cell, the last axis fastest.

        Raises:
            KindError: There are alphas, and the intervention is no `Interpolate`.
            SelectionError: The site cannot have such a choice.
        """
        by_alpha: dict[Any, Intervention] = {}
        for alpha in self.coords.get("alpha", ()):
            by_alpha[alpha] = intervention.with_strength(cast("float", alpha))
        edits = []
        for cell in product(*self.coords.values()):
            coordinates = dict(zip(self.coords, cell, strict=True))
            edits.append((self._place(intervention, by_alpha, coordinates),))
        return edits

    def _place(
        self, intervention: Intervention, by_alpha: Mapping[Any, Intervention], coordinates: dict[str, Any]
    ) -> Edit:
        """The edit of the cell at some coordinates, which this takes apart."""
        site = coordinates.pop("site", self.site)
        alpha = coordinates.pop("alpha", None)
        cell_intervention = by_alpha.get(alpha, intervention)
        return cell_intervention.at(site, **{**self.fixed, **coordinates})


def make_grid(
    over: Sequence[str],
    sites: Sequence[str],
    choices: Mapping[str, Sequence[AxisChoice] | None],
    axis_range: AxisRange,
) -> Grid:
    """The grid of a sweep.

    Args:
        over: The names of the axes that vary, in order.
        sites: The sites.
        choices: The caller's choice of layers, positions and so on, by the name of the axis; None is all.
        axis_range: All that there is along an axis, for axes without a choice.
    Raises:
        UnknownNameError: `over` has a name that is none.
        ValueRefusedError: A name twice, or a choice that is missing or of no use.
    """
    _refuse_names(over)
    if "site" not in over and len(sites) != 1:
        raise ValueRefusedError(f"`at` must be one site unless `over` has 'site'. Got {listed(sites)}. Add 'site'.")
    alphas = choices.get("alpha")
    if "alpha" not in over and alphas is not None:
        raise ValueRefusedError(
            f"`alphas` must be left out unless `over` has 'alpha'. Got {listed(alphas)}. "
            "Give one to Interpolate, or several with over=('alpha',)."
        )
    coords: dict[str, tuple[str | AxisChoice, ...]] = {}
    for name in over:
        if name == "site":
            coords[name] = tuple(sites)
            continue
        axis_choices = choices.get(name)
        if axis_choices is None:
            axis_choices = axis_range(name)
        coords[name] = tuple(axis_choices)
    fixed = {}
    for name, axis_choices in choices.items():
        if name not in over and axis_choices is not None:
            fixed[name] = merge_choices(axis_choices)
    site = None if "site" in over else sites[0]
    return Grid(coords, fixed, site)


def parse_choices(name: str, argument: object, size: int | None = None) -> tuple[AxisChoice, ...] | None:
    """The choices of a caller along an axis: a number, a slice, or numbers and groups of numbers.

    Args:
        name: The argument: "layers", "positions", "heads", "neurons" or "alphas", which alone has no groups.
        argument: Its value.
        size: The length of the axis, where slices are allowed.
    Raises:
        SelectionError: It holds something else, nothing, or something twice.
    Example:
        >>> parse_choices("layers", [0, range(1, 3)])
        (0, (1, 2))
        >>> parse_choices("positions", -1)
        (-1,)
        >>> parse_choices("positions", slice(-2, None), 8)
        (6, 7)
    """
    if argument is None:
        return None
    members = _resolve_slice(argument, size)
    if not _is_group(members):
        members = (members,)
    choices = tuple(_parse_choice(name, _resolve_slice(member, size)) for member in members)
    if not choices or () in choices:
        raise SelectionError(f"`{name}` must choose something. Got {argument!r}. Leave it out to choose all.")
    refuse_repeated_choices(name, argument, choices)
    return choices


def _resolve_slice(member: object, size: int | None) -> object:
    """The numbers of a slice; anything else as it is."""
    if isinstance(member, slice) and size is not None:
        return range(*member.indices(size))
    return member


def refuse_repeated_choices(name: str, argument: object, choices: Sequence[object]) -> None:
    """Refuse choices that repeat a number: as 9 and as -1, in one group or in two groups of the same numbers.

    Raises:
        SelectionError: They do.
    Example:
        >>> refuse_repeated_choices("heads", [(0, 1), (1, 2)], [(0, 1), (1, 2)])
    """
    groups = [choice if isinstance(choice, tuple) else (choice,) for choice in choices]
    has_repeated_number = any(len(set(group)) < len(group) for group in groups)
    has_repeated_group = len(set(map(frozenset, groups))) < len(groups)
    if has_repeated_number or has_repeated_group:
        raise SelectionError(f"`{name}` must not name anything twice. Got {argument!r}. Leave one of them out.")


def _is_group(value: object) -> TypeIs[Iterable[object]]:
    """Whether a value holds several; an array of no axes is one number."""
    if not isinstance(value, Iterable) or isinstance(value, str):
        return False
    return getattr(value, "ndim", 1) > 0


def _parse_choice(name: str, value: object) -> AxisChoice:
    if isinstance(value, Selector) and name == "positions":
        return value
    if name == "alphas":
        return _parse_alpha(value)
    if _is_group(value):
        return tuple(_parse_index(name, number) for number in value)
    return _parse_index(name, value)


def _parse_index(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, SupportsIndex) or _is_group(value):
        remedy = "Write [0, 1] or [(0, 1), 2]."
        if isinstance(value, slice):
            remedy = "Write range(1, 4), say; for positions of prompts of several lengths mp.pos.where(...)."
        raise SelectionError(f"`{name}` must hold ints, or groups of ints. Got {value!r}. {remedy}")
    return index(value)


def _parse_alpha(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, SupportsFloat) or _is_group(value):
        raise SelectionError(f"`alphas` must hold numbers. Got {value!r}. Write [0.0, 0.5, 1.0].")
    return float(value)


def merge_choices(choices: Sequence[AxisChoice]) -> tuple[int, ...] | Selector:
    """All choices as one argument of `Intervention.at`, for an axis that does not vary.

    Raises:
        SelectionError: Selectors among numbers.
    """
    selectors = [choice for choice in choices if isinstance(choice, Selector)]
    if not selectors:
        return flatten(choices)
    if len(selectors) < len(choices):
        raise SelectionError(
            f"`positions` must be all selectors or all numbers if `over` has no 'pos'. Got both: {listed(choices)}. "
            "Write mp.pos.last for -1."
        )
    return reduce(or_, selectors)


def flatten(choices: Iterable[AxisChoice]) -> tuple[int, ...]:
    """The numbers of all choices and groups in one row, without selectors.

    Example:
        >>> flatten([0, (1, 2)])
        (0, 1, 2)
    """
    numbers: list[int] = []
    for choice in choices:
        if isinstance(choice, tuple):
            numbers.extend(choice)
        elif not isinstance(choice, Selector):
            numbers.append(int(choice))
    return tuple(numbers)


def _refuse_names(over: Sequence[str]) -> None:
    for name in over:
        if name not in NAMES:
            near = did_you_mean(str(name), NAMES)
            raise UnknownNameError(f"`over` must hold axes of a sweep. Got {name!r}. {near}")
    if not over or len(set(over)) < len(over):
        raise ValueRefusedError(
            f"`over` must name at least one axis, and each once. Got {tuple(over)}. Write over=('layer',), say."
        )
