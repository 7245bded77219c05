"""Waits for a meeting, which blocks inside MLX until every rank has come to it.

A rank that is stopped, or whose machine sleeps, never comes, and nothing ends the call. So the call runs in a thread
that can be left behind, while the main thread warns, gives up after a while, and hears Ctrl-C. A process ends all the
same, whatever its thread waits for.

All calls run in one thread, since MLX makes a stream for each thread that computes.
"""

import threading
import warnings
from collections.abc import Callable
from queue import SimpleQueue
from time import monotonic
from typing import Generic, TypeVar

from mlx_patch.errors import RankError
from mlx_patch.execution.ranks._interrupts import interrupts_held

PATIENCE = 60.0
"""Seconds of waiting until a warning."""

GRACE = 5.0
"""Seconds between Ctrl-C and the end of waiting. A meeting that ends before leaves all ranks able to go on."""

POLL = 0.2
"""Seconds between two looks at what happens beside the call."""

_T = TypeVar("_T")


class ThreadCall(Generic[_T]):
    """A call that runs in the thread.

    Attributes:
        ended: Whether it has returned or raised.
    """

    def __init__(self, function: Callable[[], _T]):
        self.ended = threading.Event()
        self._function = function
        self._values: list[_T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        """ThreadCall the function, and keep what it returns or raises."""
        try:
            self._values.append(self._function())
        except BaseException as error:
            self._error = error
        self.ended.set()

    @property
    def has_returned(self) -> bool:
        """Whether it has ended without an error."""
        return bool(self._values)

    def result(self) -> _T:
        """The value of a call that has ended.

        Raises:
            BaseException: Whatever the call raised.
        """
        if self._error is not None:
            raise self._error
        return self._values[0]


class _Thread:
    """The thread in which all calls run, one after the other."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[ThreadCall] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self.is_left = False

    def put(self, call: ThreadCall) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="mlx_patch ranks", daemon=True)
            self._thread.start()
        self._calls.put(call)

    def _run(self) -> None:
        while True:
            self._calls.get().run()


_thread = _Thread()


def begin(function: Callable[[], _T]) -> ThreadCall[_T]:
    """Start a call in the thread.

    Raises:
        RankError: An earlier call was left behind, and keeps the thread.
    """
    if _thread.is_left:
        raise RankError(
            "This process left a meeting before the other ranks came to it, so that they no longer meet in step. "
            "Restart all ranks."
        )
    call = ThreadCall(function)
    _thread.put(call)
    return call


def leave() -> None:
    """Leave the call that runs behind. No other can be started in this process."""
    _thread.is_left = True


def has_left() -> bool:
    """Whether a call was left behind."""
    return _thread.is_left


class Silence:
    """Waiting for other ranks that do not answer.

    Args:
        rank: The number of this process.
        size: How many there are.
    """

    def __init__(self, rank: int, size: int):
        self.rank = rank
        self.size = size
        self.began_at = monotonic()
        self.has_warned = False

    def heard(self) -> None:
        """Begin again: the others have answered."""
        self.began_at = monotonic()
        self.has_warned = False

    @property
    def seconds(self) -> float:
        """How long it has lasted."""
        return monotonic() - self.began_at

    @property
    def others(self) -> str:
        """The ranks that may be waited for."""
        if self.size == 2:
            return f"rank {1 - self.rank}"
        return "the other ranks"

    def warn(self) -> None:
        """Warn once, if it has lasted long."""
        if self.has_warned or self.seconds < PATIENCE:
            return
        self.has_warned = True
        warnings.warn(
            f"Rank {self.rank} of {self.size} has waited {self.seconds:.0f} s for {self.others}. If none loads a model "
            "or computes, look whether a process is stopped or a machine sleeps. Ctrl-C ends the waiting.",
            RuntimeWarning,
            stacklevel=2,
        )

    def give_up_after(self, seconds: float | None) -> None:
        """Give up the other ranks if they have been silent for so long; None never does.

        Raises:
            RankError: They have.
        """
        if seconds is None or self.seconds < seconds:
            return
        raise RankError(
            f"Rank {self.rank} of {self.size} has had no answer from {self.others} for {self.seconds:.0f} s: a process "
            "is stopped, a machine sleeps, or a network is cut. Restart the sweep on all ranks."
        )


def wait_for(function: Callable[[], _T], silence: Silence, limit: float | None = None) -> _T:
    """The value of a call that blocks until all ranks come.

    Args:
        function: The call.
        silence: Who waits.
        limit: The seconds until the others are given up; None waits as long as it takes.
    Raises:
        RankError: They do not come.
        KeyboardInterrupt: Ctrl-C, and they do not come in time.
    """
    call = begin(function)
    interrupted_at: float | None = None
    with interrupts_held() as signals:
        try:
            while not call.ended.wait(POLL):
                if signals and interrupted_at is None:
                    interrupted_at = monotonic()
                if interrupted_at is not None and (len(signals) > 1 or monotonic() - interrupted_at > GRACE):
                    signals.clear()
                    raise KeyboardInterrupt
                silence.warn()
                silence.give_up_after(limit)
        except BaseException:
            leave()
            raise
    return call.result()
