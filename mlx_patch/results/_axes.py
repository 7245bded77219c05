"""`Axis`: what a result says of its axes: how each is called, counted and drawn. The axes are found by presence."""

from collections.abc import Iterator
from typing import ClassVar, final


class Axis:
    """An axis of a result. A final subclass with a `name` is an axis that results may have.

    Attributes:
        name: As `over` has it; empty for a class that only others build on.
        order: Its turn where axes are listed.
        counted: Whether its places are whole numbers, along which -1 is the last.
        ordered: Whether its places have an order, so that a curve may connect them.
        label: What a plot calls it, where that is not its name.
    """

    name: ClassVar[str] = ""
    order: ClassVar[int] = 100
    counted: ClassVar[bool] = False
    ordered: ClassVar[bool] = True
    label: ClassVar[str] = ""


@final
class CellAxis(Axis):
    """Cells that were given one by one."""

    name = "cell"
    order = 9
    ordered = False


def known_axes() -> dict[str, type[Axis]]:
    """All axes by name, in the order in which messages list them; without `metric` and `example`, which come after."""
    kinds = sorted(_named_subclasses(Axis), key=lambda kind: kind.order)
    return {kind.name: kind for kind in kinds}


def _named_subclasses(base: type[Axis]) -> Iterator[type[Axis]]:
    for kind in base.__subclasses__():
        if kind.name:
            yield kind
        yield from _named_subclasses(kind)


def is_counted(name: str) -> bool:
    """Whether an axis has whole numbers, along which -1 is the last. Not `metric` and `example`."""
    return _axis_of(name).counted


def is_ordered(name: str) -> bool:
    """Whether the places of an axis have an order."""
    return _axis_of(name).ordered


def label_of(name: str) -> str:
    """What a plot calls an axis."""
    return _axis_of(name).label or name


def _axis_of(name: str) -> type[Axis]:
    """The axis of a name; for `metric` and `example`, one that says nothing of itself."""
    return known_axes().get(name, Axis)
