"""Registration by presence: what a file of a folder defines is registered because all files of the folder are imported.

A class is then among the subclasses of its base, and a value among the names of its module.
"""

from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType


def import_modules(package: str, path: Iterable[str]) -> list[ModuleType]:
    """All modules of a package, imported in the order of their names.

    Args:
        package: The full name of the package.
        path: Its folders: `__path__`.
    """
    names = sorted((module.name for module in iter_modules(path)), key=str.lower)
    return [import_module(f"{package}.{name}") for name in names]
