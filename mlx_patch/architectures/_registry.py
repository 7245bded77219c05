"""The registry of tables, by the modules that define models' classes.

A family of one's own is published by an entry point of group `mlx_patch.architectures` that names a `Family`, or a
tuple of them; its name is the module that defines the model's class.
"""

from collections.abc import Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points

import mlx.nn as nn

from mlx_patch.architectures._family import Family
from mlx_patch.architectures.tables import FAMILIES
from mlx_patch.errors import ArchitectureError, listed

ARCHITECTURES_GROUP = "mlx_patch.architectures"


def family_of(model: nn.Module) -> Family:
    """The table of a model.

    Raises:
        ArchitectureError: There is none; the message lists what there is.
    """
    if family := registered_family(model):
        return family
    architecture, _ = _names_of(type(model))
    supported = {name for family in _families() for name in family.modules}
    raise ArchitectureError(
        f"`model` must be of an architecture that has a table. Got {architecture}. "
        f"There are tables for {listed(sorted(supported))}. "
        f"Publish one of your own as an entry point of group {ARCHITECTURES_GROUP!r}."
    )


def registered_family(model: nn.Module) -> Family | None:
    """The table of a model, or None if there is none."""
    names = [name for cls in type(model).__mro__ for name in _names_of(cls)]
    for name in names:
        for family in _families():
            if name in family.modules and family.applies(model):
                return family
    return None


def _names_of(cls: type) -> tuple[str, str]:
    return cls.__module__.removeprefix("mlx_lm.models."), cls.__module__


@cache
def _families() -> tuple[Family, ...]:
    return (*_published(), *FAMILIES)


def _published() -> Iterator[Family]:
    """The tables of installed packages.

    Raises:
        ArchitectureError: One cannot be imported, or gives something else; its models are then unknown.
    """
    for entry in entry_points(group=ARCHITECTURES_GROUP):
        try:
            value = entry.load()
        except (ImportError, AttributeError) as error:
            raise ArchitectureError(_message(entry, str(error))) from error
        families = value if isinstance(value, tuple) else (value,)
        for family in families:
            if not isinstance(family, Family):
                raise ArchitectureError(_message(entry, f"a {type(family).__name__}"))
            yield family


def _message(entry: EntryPoint, problem: str) -> str:
    owner = entry.dist.name if entry.dist else "its package"
    return (
        f"`{entry.value}`, the entry point {entry.name!r} of group {ARCHITECTURES_GROUP!r}, must give a Family or a "
        f"tuple of them. Got {problem}. Fix or uninstall {owner}."
    )
