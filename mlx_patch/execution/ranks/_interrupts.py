"""Ctrl-C that waits: in the middle of a meeting it would end the meeting on this rank alone."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_held() -> Iterator[list[int]]:
    """A context that holds Ctrl-C back until its end. Clear the list of signals it yields to drop them.

    Threads other than the main one never receive Ctrl-C.
    """
    signals: list[int] = []
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is None:
        yield signals
        return
    handler = signal.signal(signal.SIGINT, lambda number, frame: signals.append(number))
    try:
        yield signals
    finally:
        signal.signal(signal.SIGINT, handler)
        if signals:
            signal.raise_signal(signal.SIGINT)
