"""`Grid`: from the choices along axes to the edits of every cell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from mlx_patch.errors import UnknownNameError, ValueRefusedError, did_you_mean, shown
from mlx_patch.interventions import CellEdit, Intervention
from mlx_patch.sweeps.axes import AxisChoice, SweepAxis, SweepScope, sweep_axes


@dataclass(frozen=True)
class PlannedEdit:
    """An edit that is not made yet: an intervention, and what its `at` will be given; `via` has receivers."""

    intervention: Intervention
    arguments: Mapping[str, Any]

    def make(self) -> CellEdit:
        """The edit; the path, where the arguments have receivers.

        Raises:
            SelectionError: The site cannot have such a choice.
        """
        return cell_edit(self.intervention, self.arguments)


def cell_edit(intervention: Intervention, arguments: Mapping[str, Any]) -> CellEdit:
    """The edit of arguments of `Intervention.at`; the path, where `via` is among them."""
    where = {name: choice for name, choice in arguments.items() if name != "via"}
    edit = intervention.at(**where)
    if "via" in arguments:
        return edit.via(arguments["via"])
    return edit


@dataclass(frozen=True)
class Grid:
    """The cells of a sweep: the product of its axes, in their order.

    Attributes:
        axes: The axes that vary, each with the choices of its places.
        fixed: Arguments of `Intervention.at` that are the same in every cell: `pos=(-1,)`.
    """

    axes: tuple[SweepAxis, ...]
    fixed: Mapping[str, Any]

    @property
    def coords(self) -> dict[str, tuple[AxisChoice, ...]]:
        """The choices along each axis, by its name."""
        return {axis.name: axis.choices for axis in self.axes}

    def edits(self, intervention: Intervention) -> list[tuple[CellEdit, ...]]:
        """The edits of every cell, the last axis fastest.

        Raises:
            KindError: An axis cannot change the intervention.
            SelectionError: The site cannot have such a choice.
        """
        planned_edits = [PlannedEdit(intervention, self.fixed)]
        for axis in self.axes:
            planned_edits = _vary(planned_edits, axis)
        return [(planned_edit.make(),) for planned_edit in planned_edits]


def _vary(planned_edits: Sequence[PlannedEdit], axis: SweepAxis) -> list[PlannedEdit]:
    """Each edit once for every place of an axis. Edits that share an intervention share what the axis makes of it."""
    changed: dict[tuple[int, int], Intervention] = {}
    varied = []
    for planned_edit, (place, choice) in product(planned_edits, list(enumerate(axis.choices))):
        key = id(planned_edit.intervention), place
        if key not in changed:
            changed[key] = axis.changed(planned_edit.intervention, choice)
        varied.append(PlannedEdit(changed[key], {**planned_edit.arguments, **axis.where(choice)}))
    return varied


def make_grid(over: Sequence[str], scope: SweepScope) -> Grid:
    """The grid of a sweep.

    Args:
        over: The names of the axes that vary, in order.
        scope: What the sweep is made in, with all axes and the choices along them.
    Raises:
        UnknownNameError: `over` has a name that is none.
        ValueRefusedError: A name twice, or a choice that is missing or of no use.
        SelectionError: A choice that cannot be.
    """
    _refuse_names(over)
    fixed: dict[str, Any] = {}
    for name, axis in scope.axes.items():
        if name not in over:
            fixed |= axis.fixed(scope)
    axes = [scope.axes[name] for name in over]
    return Grid(tuple(replace(axis, choices=axis.places(scope)) for axis in axes), fixed)


def _refuse_names(over: Sequence[str]) -> None:
    known_names = tuple(sweep_axes())
    for name in over:
        if name not in known_names:
            near = did_you_mean(str(name), known_names)
            raise UnknownNameError(f"`over` must hold axes of a sweep. Got {shown(name)}. {near}")
    if not over or len(set(over)) < len(over):
        raise ValueRefusedError(
            f"`over` must name at least one axis, and each once. Got {tuple(over)}. Write over=('layer',), say."
        )
