"""Registration by presence: what a file of a folder defines is registered because all files of the folder are imported.

A class is then among the subclasses of its base, and a value among the names of its module. And what of that `dir`
shows, since the files of a folder are names of its module as well.
"""

from collections.abc import Collection, Iterable, Mapping
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any


def import_modules(package: str, path: Iterable[str]) -> list[ModuleType]:
    """All modules of a package, imported in the order of their names.

    Args:
        package: The full name of the package.
        path: Its folders: `__path__`.
    """
    names = sorted((module.name for module in iter_modules(path)), key=str.lower)
    return [import_module(f"{package}.{name}") for name in names]


def shown_names(
    namespace: Mapping[str, Any], modules: Collection[str] = (), plumbing: Collection[str] = ()
) -> list[str]:
    """The names of a module that `dir` shows: those without an underscore that are meant for its user.

    Args:
        namespace: Of the module: `globals()`.
        modules: Which of the modules in it are meant.
        plumbing: What other parts of the library import, and is not meant.
    Example:
        >>> import math
        >>> shown_names({"sweep": 1, "math": math, "cmath": math, "_own": 2, "brief": 3}, ("cmath",), ("brief",))
        ['cmath', 'sweep']
    """

    def is_meant(name: str) -> bool:
        is_module = isinstance(namespace[name], ModuleType)
        return not name.startswith("_") and name not in plumbing and (name in modules or not is_module)

    return sorted(filter(is_meant, namespace))
