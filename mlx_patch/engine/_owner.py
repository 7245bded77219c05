"""`Owner` of a frame: the generator or coroutine in which it was entered, or else the thread.

A generator shares its thread with its caller, a task with all other tasks. While one of them is suspended inside a
`with`, the code that runs next must not see its hooks. Python's own call stack shows what is running, so nothing has to
be noted when a task or a generator is suspended, resumed or thrown away, and an interrupt can leave nothing behind.
"""

import threading
from collections.abc import Iterator
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR, CO_ITERABLE_COROUTINE
from math import inf
from types import FrameType

_SUSPENDABLE = CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR | CO_ITERABLE_COROUTINE

_DRIVERS = ("contextlib", "_pytest.fixtures")
"""Modules that run a generator as a context manager: suspended, it holds open a block that belongs to its caller."""

_PASSING = ("<genexpr>", "__aenter__")
"""Code that may enter a context for its caller, and ends before the context does."""


class _Thread(threading.local):
    def __init__(self) -> None:
        self.identity = object()  # not the thread's number, which another thread is given later


_thread = _Thread()


def callers(frame: FrameType | None) -> Iterator[FrameType]:
    """A Python frame and those that called it, innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def can_suspend(frame: FrameType) -> bool:
    """Whether a Python frame is that of a generator or a coroutine."""
    return bool(frame.f_code.co_flags & _SUSPENDABLE)


class Owner:
    """The generator, coroutine or thread that enters a context.

    Args:
        caller: The Python frame that enters it.
    """

    def __init__(self, caller: FrameType):
        self._thread = _thread.identity
        self._within = next((frame for frame in callers(caller) if _owns(frame)), None)

    @property
    def is_this_thread(self) -> bool:
        """Whether it was this thread."""
        return self._thread is _thread.identity

    def let_go(self) -> None:
        """Drop the reference to the generator: one that holds the context would be held by it."""
        self._within = None

    def hidden(self, running: dict[FrameType, int], thread: int) -> float:
        """The number below which its contexts are hidden; infinity while it does not run.

        Args:
            running: That of each generator and coroutine on the thread's call stack.
            thread: That of the thread's own contexts.
        """
        if self._within is None:
            return thread
        return running.get(self._within, inf)


def _owns(frame: FrameType) -> bool:
    """Whether a context that is entered below a Python frame belongs to that frame, and not to its caller."""
    if not can_suspend(frame) or frame.f_code.co_name in _PASSING or _is_driver(frame):
        return False
    return frame.f_back is None or not _is_driver(frame.f_back)


def _is_driver(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__") in _DRIVERS
