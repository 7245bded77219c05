"""The tables: one module per architecture, named as in mlx_lm. Every table in them is registered."""

from collections.abc import Iterable, Iterator
from importlib import import_module
from pkgutil import iter_modules

from mlx_patch.architectures._family import Family


def families_in(path: Iterable[str]) -> Iterator[Family]:
    """The public tables of a folder's modules, in the order of the modules' names.

    Args:
        path: Folders of this package.
    """
    yielded: set[int] = set()
    module_names = sorted((module.name for module in iter_modules(path)), key=str.lower)
    for module_name in module_names:
        module = import_module(f"{__name__}.{module_name}")
        for name, value in vars(module).items():
            if isinstance(value, Family) and not name.startswith("_") and id(value) not in yielded:
                yielded.add(id(value))
                yield value


FAMILIES: tuple[Family, ...] = tuple(families_in(__path__))
"""The tables that come with mlx_patch."""
