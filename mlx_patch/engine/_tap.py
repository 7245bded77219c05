"""The class swap: how a module of a model that is not ours is made to tell us what it reads and writes.

`nn.Module` has no hooks, an instance's `__call__` is never consulted, and a wrapper in a module's place changes the
paths of parameters and hides its attributes (`layer.use_sliding`) from the model's own code. What works on every
mlx_lm model is to give the instance a subclass of its own class: `module.__class__ = Tapped`. Parameters, paths and
attributes stay, `isinstance` holds, the arithmetic is the module's own, and putting the class back undoes it without
a trace. This file is the only one that knows.

Swapping is visible to every thread, what to do is not: hooks hang on the frames of the thread that made them, so a
second thread that runs the same model meanwhile passes through untouched. A swapped class is counted, and put back by
the last one to leave.
"""

import threading
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import mlx.nn as nn

if TYPE_CHECKING:
    from mlx_patch.engine._frame import Frame


class _Local(threading.local):
    frames: "tuple[Frame, ...]" = ()


Visitor = Callable[["tuple[Frame, ...]", nn.Module, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""What a tapped module calls in place of its own code: frames, module, its code, arguments."""

_IN_PLACE_OF_A_CALL = ("attention",)
"""The methods that a model calls of a module that has no `__call__`."""

_local = _Local()
_lock = threading.Lock()
_holders: dict[int, tuple[nn.Module, int]] = {}


def frames() -> "tuple[Frame, ...]":
    """The frames of this thread that see the module calls being made, outermost first."""
    return _local.frames


class Seen:
    """A context in which this thread's module calls are seen by the given frames."""

    def __init__(self, now: "tuple[Frame, ...]"):
        self.now = now

    def __enter__(self) -> None:
        self.before = _local.frames
        _local.frames = self.now

    def __exit__(self, *_: object) -> None:
        _local.frames = self.before


def unseen(function: Callable[..., Any], *args: Any) -> Any:
    """What a function returns that sees none of the frames under way, and may run the model itself."""
    with Seen(()):
        return function(*args)


def swap_in(modules: Iterable[nn.Module], visit: Visitor) -> None:
    """Give modules their tapped class, or count one more holder of those that have it."""
    with _lock:
        for module in modules:
            _, holders = _holders.get(id(module), (module, 0))
            if holders == 0:
                module.__class__ = _tapped(type(module), visit)
            _holders[id(module)] = (module, holders + 1)


def swap_out(modules: Iterable[nn.Module]) -> None:
    """Undo `swap_in`: the last holder puts the class back."""
    with _lock:
        for module in modules:
            _, holders = _holders.pop(id(module))
            if holders > 1:
                _holders[id(module)] = (module, holders - 1)
            else:
                module.__class__ = cast(type, type(module).__base__)


def plain_class(module: nn.Module) -> type:
    """The class that a module has when nobody taps it."""
    with _lock:
        return cast(type, type(module).__base__) if id(module) in _holders else type(module)


@cache
def _tapped(plain: type, visit: Visitor) -> type:
    """The subclass of a module's class whose instances tell the frames about their calls."""
    called = any("__call__" in vars(cls) for cls in plain.__mro__[:-1])
    methods = ("__call__",) if called else tuple(name for name in _IN_PLACE_OF_A_CALL if hasattr(plain, name))
    told = {name: _told(plain, name, visit) for name in methods}
    names = {**told, "__module__": plain.__module__, "__qualname__": plain.__qualname__}
    return type(plain.__name__, (plain,), names)


def _told(plain: type, name: str, visit: Visitor) -> Callable[..., Any]:
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        # Looked up at each call: tapped classes outlive a run, and a model's own class may be changed between two runs.
        seen, forward = _local.frames, getattr(plain, name)
        return visit(seen, self, forward, args, kwargs) if seen else forward(self, *args, **kwargs)

    return call
