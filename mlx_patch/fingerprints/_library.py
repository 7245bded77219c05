"""Library code, which a name and a version identify; and values that no fingerprint can identify.

A function that reads a file, the clock, the environment or a random state gives other numbers another time, and nothing
in the function says which. Such functions are refused by name.
"""

import io
import re
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from mlx_patch._version import __version__

_INSTALLED = {"site-packages", "dist-packages"}
_STDLIB = Path(re.__file__).parents[1]
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_THIS = "mlx_patch"

_OUTSIDE = frozenset(
    "os posix nt io _io genericpath subprocess _posixsubprocess socket _socket ssl select selectors asyncio signal "
    "multiprocessing concurrent threading _thread queue sched contextvars _contextvars time random _random secrets "
    "uuid urllib http ftplib smtplib xmlrpc importlib _frozen_importlib runpy pkgutil zipimport inspect ctypes _ctypes "
    "mmap shelve dbm sqlite3 _sqlite3 tempfile shutil glob fileinput linecache getpass platform sys gc weakref "
    "code codeop zipfile tarfile gzip bz2 lzma requests httpx huggingface_hub".split()
)
"""Modules of files, processes, clocks, random states, the interpreter itself."""

_BUILTINS = (open, eval, exec, compile, input, globals, __import__, breakpoint)
_READING = re.compile(r"(load|read|open|fetch|download|from_?file|from_pretrained|loadtxt|genfromtxt|memmap)(_\w*)?")
_READING_CLASSES = {"mlx_patch.store._store.ActivationStore"}
_READING_NAMES = frozenset("read_text read_bytes open readline readlines now utcnow today".split())
_LOOKING_NAMES = frozenset("__globals__ __builtins__ f_globals f_locals f_back".split())
_DRAWS = "mlx.core.random"
_NO_DRAWS = {"key", "split"}
_GENERATORS = frozenset("default_rng SeedSequence PCG64 PCG64DXSM MT19937 Philox SFC64".split())


def is_installed(module: str | None) -> bool:
    """Whether a module comes with Python, mlx_patch or an installed package, whose version stands for its code."""
    return module_version(module or "") is not None


def module_version(name: str) -> str | None:
    """The version of Python or of the package that a module belongs to; None for a module of the user's own."""
    top = name.partition(".")[0]
    if name == "__main__" or not top:
        return None
    if top == _THIS:
        return __version__
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        file = getattr(sys.modules.get(top), "__file__", None)
    if file is None:
        return _version_without_file(name, top)
    path = Path(file)
    if not _INSTALLED.isdisjoint(path.parts):
        return _version_of(top)
    if path.is_relative_to(_STDLIB):
        return _PYTHON
    return None


def _version_without_file(name: str, top: str) -> str | None:
    """The version of a module that is built into Python or into a package's binary."""
    if top in sys.stdlib_module_names:
        return _PYTHON
    if name in sys.modules:
        return _version_of(top)
    return None


@cache
def _version_of(top: str) -> str | None:
    """The version of an installed package, by the name of its import; None if it has no metadata."""
    try:
        return version(top)
    except PackageNotFoundError:
        names = packages_distributions().get(top, ())
    return " ".join(f"{name} {version(name)}" for name in sorted(set(names))) or None


def library_name(value: Any) -> str | None:
    """The name and version of a function or class of a library; None if it is not a library's, whatever its name.

    A user's function may carry the name of a library's, as `functools.wraps` makes it do. So a function is identified
    by the module whose globals it reads, and anything else by being found in its module under its name.
    """
    module_name = getattr(value, "__module__", None)
    if isinstance(value, FunctionType):
        module_name = value.__globals__.get("__name__")
    if not isinstance(module_name, str):
        return None
    module = sys.modules.get(module_name)
    if module is None or not is_installed(module_name):
        return None
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", "")
    if isinstance(value, FunctionType):
        belongs = vars(module) is value.__globals__
    else:
        belongs = _attribute_at(module, name) is value
    if not belongs:
        return None
    return f"{module_name}.{name} {module_version(module_name)}"


def _attribute_at(module: ModuleType, path: str) -> Any:
    """The object at a dotted path in a module; None if there is none."""
    value: Any = module
    for name in path.split("."):
        value = getattr(value, name, None)
    return value


def unknowable(value: Any) -> str:
    """The reason why a value may give something else another time, as a clause; "" if it cannot."""
    if any(value is function for function in _BUILTINS):
        return "reads or runs what lies outside the function"
    if isinstance(value, type(sys.version_info)) or value is type(sys.version_info):
        return ""  # the same for one version of Python, unlike the rest of `sys`
    if value is sys.modules or isinstance(value, io.IOBase):
        return "belongs to this process alone"
    home = _home(value)
    if home.partition(".")[0] in _OUTSIDE and is_installed(home):
        return f"belongs to {home}: files, clocks, random states and the interpreter differ from one run to the next"
    if home == _DRAWS and getattr(value, "__name__", "") not in _NO_DRAWS:
        return "draws from MLX's random state. Give it `key=mx.random.key(...)`"
    if type(getattr(value, "__self__", None)).__name__ == "RandomState":
        return "draws from numpy's random state. Use `np.random.default_rng(seed)`"
    if _reads_files(value, home):
        return "reads a file, or something like it"
    return ""


def _home(value: Any) -> str:
    """The name of the module of a function, a class, or an object's class; of a module its own name."""
    if isinstance(value, ModuleType):
        return value.__name__
    owner = getattr(value, "__self__", None)
    if isinstance(owner, ModuleType):
        return owner.__name__
    definition = value
    if not isinstance(value, type) and not hasattr(value, "__name__"):
        definition = type(value)
    module_name = getattr(definition, "__module__", None)
    if not isinstance(module_name, str):
        return ""
    return module_name


def _reads_files(value: Any, home: str) -> bool:
    name = getattr(value, "__name__", None)
    if not isinstance(name, str) or not callable(value) or not is_installed(home):
        return False
    return _READING.fullmatch(name) is not None or f"{home}.{name}" in _READING_CLASSES


def unknowable_attribute(owner: Any, name: str) -> str:
    """The reason why an attribute may give something else another time, as a clause; "" if it cannot.

    Args:
        owner: The class whose attribute it is; None if unknown.
        name: The attribute's.
    """
    if name in _LOOKING_NAMES:
        return f"looks through {name!r} at values outside it"
    if name in _READING_NAMES:
        return f"calls {name!r}, which reads a file or the clock"
    if isinstance(owner, type) and is_installed(owner.__module__) and _READING.fullmatch(name):
        return f"calls {owner.__name__}.{name}, which reads a file"
    return ""


def is_draw(value: Any) -> bool:
    """Whether it is a function of mlx that draws random numbers, from the global state or from a key."""
    return _home(value) == _DRAWS and callable(value) and getattr(value, "__name__", "") not in _NO_DRAWS


def is_generator_maker(value: Any) -> bool:
    """Whether it makes a numpy random generator, which differs each time unless it has a seed."""
    return getattr(value, "__name__", None) in _GENERATORS and _home(value).startswith("numpy.")
