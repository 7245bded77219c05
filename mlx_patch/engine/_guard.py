"""`Guard`: a lock that an interrupt cannot leave locked.

A `with` statement may be interrupted in the line in which it ends, before the lock is released. The thread that held it
takes it again and never notices; every other one would wait for ever. So a waiting thread checks whether any thread is
inside a guarded function, and replaces a lock that no running function holds.
"""

import sys
import threading
from collections.abc import Collection
from types import CodeType, FrameType

_PATIENCE = 0.1
"""Seconds to wait before checking."""


class Guard:
    """A reentrant lock for the functions that it guards.

    Attributes:
        codes: The code of these functions.
    """

    def __init__(self) -> None:
        self.codes: Collection[CodeType] = ()
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        while not self._lock.acquire(timeout=_PATIENCE):
            if not any(map(self._is_inside, sys._current_frames().values())):
                self._lock = threading.RLock()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _is_inside(self, frame: FrameType | None) -> bool:
        """Whether a thread runs a guarded function, and is not waiting to enter it."""
        while frame is not None:
            if frame.f_code is Guard.__enter__.__code__:
                return False
            if frame.f_code in self.codes:
                return True
            frame = frame.f_back
        return False
