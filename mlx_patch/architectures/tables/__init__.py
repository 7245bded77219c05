"""The tables: one module per architecture, named as in mlx_lm. Every table in them is registered."""

from collections.abc import Iterable, Iterator

from mlx_patch._presence import import_modules
from mlx_patch.architectures._family import Family


def families_in(path: Iterable[str]) -> Iterator[Family]:
    """The public tables of a folder's modules, in the order of the modules' names.

    Args:
        path: Folders of this package.
    """
    yielded: set[int] = set()
    for module in import_modules(__name__, path):
        for name, value in vars(module).items():
            if isinstance(value, Family) and not name.startswith("_") and id(value) not in yielded:
                yielded.add(id(value))
                yield value


FAMILIES: tuple[Family, ...] = tuple(families_in(__path__))
"""The tables that come with mlx_patch."""
