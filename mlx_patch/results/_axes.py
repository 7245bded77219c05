"""The one table of axes: what a sweep can run over, and how each axis is chosen, counted and written."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """An axis of a result.

    Attributes:
        name: As `over` has it.
        argument: The argument of `sweep` that chooses along it; empty where it is not chosen so.
        counted: Whether its places are whole numbers, along which -1 is the last.
        ordered: Whether its places have an order, so that a curve may connect them.
        label: What a plot calls it, where that is not its name.
    """

    name: str
    argument: str = ""
    counted: bool = False
    ordered: bool = True
    label: str = ""


AXES: Mapping[str, Axis] = {
    axis.name: axis
    for axis in (
        Axis("site", ordered=False),
        Axis("layer", "layers", counted=True),
        Axis("pos", "positions", counted=True, label="position"),
        Axis("head", "heads", counted=True),
        Axis("neuron", "neurons", counted=True),
        Axis("alpha", "alphas", label="alpha (share of the source)"),
        Axis("cell", ordered=False),
    )
}
"""By name, in the order in which messages list them. `metric`, where there are several, and `example` come after."""

CHOSEN_AXES = tuple(axis for axis in AXES.values() if axis.argument)
"""Those along which an argument of `sweep` chooses."""


def is_counted(name: str) -> bool:
    """Whether an axis has whole numbers, along which -1 is the last. Not `metric` and `example`."""
    return name in AXES and AXES[name].counted


def is_ordered(name: str) -> bool:
    """Whether the places of an axis have an order."""
    return name not in AXES or AXES[name].ordered


def label_of(name: str) -> str:
    """What a plot calls an axis."""
    if name not in AXES:
        return name
    return AXES[name].label or name
