"""What comes with Python or a package, which a name and a version stand for; and what no fingerprint can know.

A function that reads a file, the clock, the environment or a random state gives other numbers another time, and nothing
in the function says which. Such things are refused by name: what reads them is not guessed at.
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
    """The version of what a module comes with; None for a module of the user's own."""
    top = name.partition(".")[0]
    if name == "__main__" or not top:
        return None
    if top == _THIS:
        return __version__
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        file = getattr(sys.modules.get(top), "__file__", None)
    if file is None:  # built in, or a part of one that is
        return _PYTHON if top in sys.stdlib_module_names else _version_of(top) if name in sys.modules else None
    path = Path(file)
    if not _INSTALLED.isdisjoint(path.parts):
        return _version_of(top)
    return _PYTHON if path.is_relative_to(_STDLIB) else None


@cache
def _version_of(top: str) -> str | None:
    """The version of an installed package, by the name that is imported; None where nobody knows it."""
    try:
        return version(top)
    except PackageNotFoundError:
        names = packages_distributions().get(top, ())
    return " ".join(f"{name} {version(name)}" for name in sorted(set(names))) or None


def library_name(value: Any) -> str | None:
    """The name and version of a function or class of a library, if that is what it is, and not just what it says.

    A function of the user's may carry the name of another, as `functools.wraps` makes it do. So a function is known by
    the module whose globals it reads, and anything else by being found in its module under its name.
    """
    module = (
        value.__globals__.get("__name__") if isinstance(value, FunctionType) else getattr(value, "__module__", None)
    )
    there = sys.modules.get(module) if isinstance(module, str) else None
    if there is None or not is_installed(module):
        return None
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", "")
    belongs = vars(there) is value.__globals__ if isinstance(value, FunctionType) else _named(there, name) is value
    return f"{module}.{name} {module_version(str(module))}" if belongs else None


def _named(module: ModuleType, name: str) -> Any:
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part, None)
    return value


def unknowable(value: Any) -> str:
    """Why nobody can know what a value gives another time, as a clause; "" where that can be known."""
    if any(value is function for function in _BUILTINS):
        return "reads or runs what is not in the function"
    if isinstance(value, type(sys.version_info)) or value is type(sys.version_info):
        return ""  # one of the values of `sys` that are those of a version of Python
    if value is sys.modules or isinstance(value, io.IOBase):
        return "is of this process alone"
    home = _home(value)
    if home.partition(".")[0] in _OUTSIDE and is_installed(home):
        return f"belongs to {home}: files, clocks, random states and the interpreter are other ones another time"
    if home == _DRAWS and getattr(value, "__name__", "") not in _NO_DRAWS:
        return "draws from MLX's random state. Give it `key=mx.random.key(...)`"
    if type(getattr(value, "__self__", None)).__name__ == "RandomState":
        return "draws from numpy's random state. Use `np.random.default_rng(seed)`"
    return "reads a file, or something like it" if _reads_files(value, home) else ""


def _home(value: Any) -> str:
    """The module of a function, a class, or an object's class; of a module its own name."""
    if isinstance(value, ModuleType):
        return value.__name__
    bound = getattr(value, "__self__", None)
    if isinstance(bound, ModuleType):
        return bound.__name__
    named = value if isinstance(value, type) or hasattr(value, "__name__") else type(value)
    module = getattr(named, "__module__", None)
    return module if isinstance(module, str) else ""


def _reads_files(value: Any, home: str) -> bool:
    name = getattr(value, "__name__", None)
    if not isinstance(name, str) or not callable(value) or not is_installed(home):
        return False
    return _READING.fullmatch(name) is not None or f"{home}.{name}" in _READING_CLASSES


def unknowable_attribute(owner: Any, name: str) -> str:
    """Why nobody can know what an attribute gives, as a clause; "" where that can be known.

    Args:
        owner: A class whose attribute it is; None where nobody knows of what it is one.
        name: The attribute's.
    """
    if name in _LOOKING_NAMES:
        return f"looks through {name!r} at what is not in it"
    if name in _READING_NAMES:
        return f"calls {name!r}, which reads a file or the clock"
    if isinstance(owner, type) and is_installed(owner.__module__) and _READING.fullmatch(name):
        return f"calls {owner.__name__}.{name}, which reads a file"
    return ""


def is_draw(value: Any) -> bool:
    """Whether it is a function of mlx that draws random numbers, from the state or from a key."""
    return _home(value) == _DRAWS and callable(value) and getattr(value, "__name__", "") not in _NO_DRAWS


def is_generator_maker(value: Any) -> bool:
    """Whether it makes a random generator of numpy's, which without a seed is another one each time."""
    return getattr(value, "__name__", None) in _GENERATORS and _home(value).startswith("numpy.")
