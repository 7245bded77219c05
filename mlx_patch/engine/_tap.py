"""The class swap that taps a module: hooks then see what it reads and writes.

`nn.Module` has no hooks, an instance's `__call__` is never consulted, and a wrapper in a module's place changes the
paths of parameters and hides its attributes (`layer.use_sliding`) from the model's own code. What works on every
mlx_lm model is to give the instance a subclass of its own class: `module.__class__ = Tapped`. Parameters, paths and
attributes stay, `isinstance` holds, the arithmetic is the module's own, and putting the class back undoes it without
a trace. This file is the only one that knows.

An interrupt may come at any line, even at the first of a `finally`. So there is no count that could be wrong, and
nothing to set back:

* The frames that are in are held weakly. Once nothing else holds a frame it is out, whether or not it was taken out.
* Which modules must be tapped follows from the frames that are in. A module is noted before its class is swapped, and
  every frame that leaves puts right all that are noted and that no frame needs.
* Which frames see a call follows from Python's call stack: the nearest tapped call knows its frames; an edit's own
  code, which sees none of them, runs below `unseen`.
"""

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, wraps
from itertools import count
from types import CodeType, FrameType
from typing import Any, no_type_check
from weakref import ref

import mlx.core as mx
import mlx.nn as nn

from mlx_patch.engine._fitness import is_compiling
from mlx_patch.engine._guard import Guard
from mlx_patch.engine._hook_state import HookState
from mlx_patch.engine._owner import callers, can_suspend
from mlx_patch.engine._tapped_classes import plain_class, tapped_classes

Visitor = Callable[[tuple[HookState, ...], nn.Module, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Called by a tapped module in place of its own code, with the frames, the module, its code and the arguments."""

_IN_PLACE_OF_A_CALL = ("attention",)
"""The methods that a model calls of a module that has no `__call__`."""


class _Registry:
    """The frames in force, in order of entry, and what they have changed.

    Attributes:
        frames: The frames.
        modules: The modules that may have a tapped class.
        uncompiled: Whether compiling has been switched off for them.
    """

    def __init__(self) -> None:
        self.frames: tuple[ref[Any], ...] = ()
        self.modules: dict[int, nn.Module] = {}
        self.uncompiled = False


_registry = _Registry()
_guard = Guard()  # taken again where Python drops a frame in the middle of what it guards
_numbers = count(1)


def put_in(frame: HookState, visit: Visitor) -> None:
    """Put a frame in force: tap its modules, and show it their calls."""
    with _guard:
        frame.number = next(_numbers)
        _registry.frames = (*_registry.frames, ref(frame, take_out))
        for key, module in frame.modules.items():
            _registry.modules[key] = module
            if type(module) not in tapped_classes:
                module.__class__ = _tapped_class(type(module), visit)
        if frame.uncompiled and not _registry.uncompiled and is_compiling():
            _registry.uncompiled = True
            mx.disable_compile()


def take_out(frame: HookState | ref[HookState]) -> None:
    """Remove a frame, if in force, and restore the class of every module that no other frame needs.

    Python calls it with the weak reference of a frame that is being freed, which is in only if it was interrupted.
    """
    with _guard:
        _registry.frames = tuple(entry for entry in _registry.frames if entry() not in (None, frame))
        needed = {key for remaining in _frames_in() for key in remaining.modules}
        for key, module in [*_registry.modules.items()]:
            if key not in needed:
                module.__class__ = plain_class(module)
                _registry.modules.pop(key, None)
        if _registry.uncompiled and not any(remaining.uncompiled for remaining in _frames_in()):
            mx.enable_compile()
            _registry.uncompiled = False


def moment() -> int:
    """A number that every frame exceeds that is put in force from now on."""
    return next(_numbers)


def classes_since(moment: int, modules: Iterable[nn.Module]) -> tuple[type, ...]:
    """The class of each module, as what this thread has done since a moment left it.

    It is the plain one where the module is tapped for another thread's frame, or for one from before.
    """
    with _guard:
        others = [frame for frame in _frames_in() if not frame.owner.is_this_thread or frame.number < moment]
        tapped = {key for frame in others for key in frame.modules}
        return tuple(_class_without(tapped, module) for module in modules)


def _class_without(tapped: set[int], module: nn.Module) -> type:
    if id(module) in tapped:
        return plain_class(module)
    return type(module)


_guard.codes = (put_in.__code__, take_out.__code__, classes_since.__code__)


def unseen(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function that sees none of the frames in force, and may run the model itself; return its result."""
    return _below(next(_numbers), function, args)


def _below(since: int, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Mark on the call stack that frames with a lower number are hidden: `_seen_by` reads `since` from its locals."""
    return function(*args)


def _frames_in() -> Iterator[HookState]:
    return (frame for entry in _registry.frames if (frame := entry()) is not None)


def _seen_by(module: nn.Module, caller: FrameType | None) -> tuple[HookState, ...]:
    """The frames that see a call of a module by a Python frame, outermost first."""
    mine = [frame for frame in _frames_in() if frame.owner.is_this_thread]
    if not mine:
        return ()
    near = _nearest(caller)
    if near is not None and all(frame in near or id(module) not in frame.modules for frame in mine):
        return near
    stack = _read_stack(caller)
    visible = tuple(frame for frame in mine if frame.owner.hidden(stack.running, stack.hidden) < frame.number)
    for frame in visible:
        if frame not in stack.under_way:
            frame.end()  # an interrupt may have kept the last pass from doing so
    return visible


def _nearest(caller: FrameType | None) -> tuple[HookState, ...] | None:
    """The frames of the tapped call around a Python frame; None without one, or with an edit's code in between."""
    for frame in callers(caller):
        if frame.f_code is _CALL:
            return frame.f_locals["frames"]
        if frame.f_code is _BELOW:
            return None
    return None


@dataclass
class _Stack:
    """The state of the taps, as read from Python's call stack.

    Attributes:
        running: The generators and coroutines on it, each with the number below which its frames are hidden.
        hidden: The number below which frames of the thread are hidden.
        under_way: The frames that see a call on it.
    """

    running: dict[FrameType, int] = field(default_factory=dict)
    hidden: int = 0
    under_way: set[HookState] = field(default_factory=set)


def _read_stack(caller: FrameType | None) -> _Stack:
    stack = _Stack()
    for frame in callers(caller):
        if frame.f_code is _CALL:
            stack.under_way.update(frame.f_locals["frames"])
        elif frame.f_code is _BELOW:
            stack.hidden = stack.hidden or frame.f_locals["since"]  # the nearest one's is the highest
        elif can_suspend(frame):
            stack.running[frame] = stack.hidden
    return stack


@cache
def _tapped_class(plain: type, visit: Visitor) -> type:
    """The subclass of a module's class whose instances pass their calls to the visitor."""
    methods = {name: _tapped_method(plain, name, visit) for name in _methods_to_tap(plain)}
    identity = {"__module__": plain.__module__, "__qualname__": plain.__qualname__}
    tapped = type(plain.__name__, (plain,), {**methods, **identity, "__reduce_ex__": _reduce_as_plain})
    tapped_classes.add(tapped)
    return tapped


def _methods_to_tap(plain: type) -> tuple[str, ...]:
    if any("__call__" in vars(cls) for cls in plain.__mro__[:-1]):
        return ("__call__",)
    return tuple(name for name in _IN_PLACE_OF_A_CALL if hasattr(plain, name))


def _tapped_method(plain: type, name: str, visit: Visitor) -> Callable[..., Any]:
    @no_type_check  # its annotations are the model's own, and a check would be one more caller
    @wraps(getattr(plain, name))  # mlx_lm reads the signature
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        # Looked up at each call: tapped classes outlive a run, and a model's own class may be changed between two runs.
        frames, forward = _seen_by(self, sys._getframe(1)), getattr(plain, name)
        if frames:
            return visit(frames, self, forward, args, kwargs)
        return forward(self, *args, **kwargs)

    return call


def _reduce_as_plain(self: nn.Module, protocol: int) -> Any:
    """`__reduce_ex__` of tapped modules: their copies and pickles have the plain class."""
    tapped, plain = type(self), plain_class(self)
    reduced = super(tapped, self).__reduce_ex__(protocol)
    if isinstance(reduced, str):
        return reduced
    make, args, *state = reduced
    if getattr(make, "__name__", "") == "__newobj__":  # pickle would compare the class with the instance's
        make = _new
    elif make is tapped:
        make = plain
    plain_args = tuple(plain if arg is tapped else arg for arg in args)
    return (make, plain_args, *state)


def _new(cls: type, *args: Any) -> Any:
    return cls.__new__(cls, *args)


def _code_inside(function: Callable[..., Any], name: str) -> CodeType:
    """The code of a function that another one makes."""
    for constant in inspect.unwrap(function).__code__.co_consts:
        if isinstance(constant, CodeType) and constant.co_name == name:
            return constant
    raise AssertionError(f"{function} makes no {name}")


_CALL, _BELOW = _code_inside(_tapped_method, "call"), inspect.unwrap(_below).__code__
