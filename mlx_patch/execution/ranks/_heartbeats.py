"""`Heartbeats`: meetings every few seconds while passes run, at which ranks learn of each other's cells and errors.

They run in the thread of `_waiting`. So a rank answers in the middle of a pass, however long that takes, and one that
does not answer is stopped or unreachable.
"""

import threading
from collections.abc import Callable
from contextlib import suppress

from mlx_patch.errors import RankError
from mlx_patch.execution.ranks._interrupts import interrupts_held
from mlx_patch.execution.ranks._meeting import RankGroup, State, meet
from mlx_patch.execution.ranks._waiting import GRACE, POLL, Silence, begin, has_left, leave

HEARTBEAT = 5.0
"""Seconds between two meetings while passes run. One that brings news comes at once."""

SILENCE = 600.0
"""Seconds without an answer after which the other ranks are given up."""

PassRunner = Callable[[Callable[[int], None]], None]
"""Runs the passes of a rank. It calls its argument after each pass, with the number of the pass's cells."""


class _StoppedError(Exception):
    """Another rank was interrupted, so this rank stops too."""


class Heartbeats:
    """The meetings of a rank while its passes run. They begin at once.

    Args:
        group: The ranks.
        show: Called with the number of cells that any rank has finished since the last call.
    """

    def __init__(self, group: RankGroup, show: Callable[[int], None]):
        self._group = group
        self._show = show
        self._state = State.WORKING
        self._reason = ""
        self._has_news = threading.Event()
        self._n_cells = 0  # that this rank has finished
        self._n_done = 0  # of all ranks
        self._n_shown = 0
        self._is_interrupted = False
        self._silence = Silence(group.rank(), group.size())
        self._call = begin(self._beat)

    def _beat(self) -> None:
        """Meet until no rank is working. Runs in the thread."""
        while True:
            self._has_news.clear()
            state = self._state
            message = self._reason or str(self._n_cells)
            reports = meet(self._group, state, message.encode())
            self._silence.heard()
            self._n_done = sum(map(int, reports.messages))
            self._is_interrupted |= State.INTERRUPTED in reports.states
            if State.WORKING not in reports.states:
                return
            self._has_news.wait(HEARTBEAT)

    def run_passes(self, run: PassRunner) -> None:
        """Run the passes of this rank, as far as Ctrl-C lets them, here or on another rank.

        Raises:
            RankError: Another rank failed, is gone or does not answer.
        """
        try:
            run(self._finish_pass)
            self._tell(State.READY)
        except _StoppedError:
            self._tell(State.READY)
        except KeyboardInterrupt:
            self._tell(State.INTERRUPTED)

    def _finish_pass(self, cells: int) -> None:
        self._n_cells += cells
        self._look()
        if self._is_interrupted:
            raise _StoppedError

    def wait_for_all(self) -> bool:
        """Wait until every rank has run its passes; whether Ctrl-C ended it.

        Raises:
            RankError: Another rank failed, is gone or does not answer.
            KeyboardInterrupt: Ctrl-C, and the others do not answer.
        """
        with interrupts_held() as signals:
            while not self._call.ended.wait(POLL):
                self._hear(signals)
                self._look()
            self._look()
            signals.clear()  # the others have heard of them
        return self._is_interrupted

    def _hear(self, signals: list[int]) -> None:
        """Tell the other ranks of Ctrl-C; leave if they do not answer, or if it comes a third time."""
        if not signals:
            return
        if len(signals) > 2 or self._silence.seconds > GRACE + HEARTBEAT:
            leave()
            signals.clear()
            raise KeyboardInterrupt
        if self._state is State.READY:
            self._tell(State.INTERRUPTED)

    def _look(self) -> None:
        """Show what has been finished, and raise what the thread has raised."""
        if self._call.ended.is_set():
            self._call.result()
        self._silence.warn()
        try:
            self._silence.give_up_after(SILENCE)
        except RankError:
            leave()
            raise
        n_new = self._n_done - self._n_shown
        self._n_shown += n_new
        if n_new > 0:
            self._show(n_new)

    def end_early(self, error: BaseException) -> bool:
        """Tell the other ranks that this one has raised; whether they still wait for it, at a meeting without cells."""
        if has_left():
            return False
        if not self._call.ended.is_set():
            self._show = lambda cells: None  # what it raises would come in place of the error
            self._reason = f"{type(error).__name__}: {error}"
            state = State.FAILED
            if isinstance(error, KeyboardInterrupt):
                self._reason = ""
                state = State.INTERRUPTED
            self._tell(state)
            with suppress(RankError, KeyboardInterrupt):
                self.wait_for_all()
        return self._call.has_returned

    def _tell(self, state: State) -> None:
        self._state = state
        self._has_news.set()
