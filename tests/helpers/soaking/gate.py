"""Where workers rest while the process is measured."""

import asyncio
import contextlib
import time
from collections.abc import Iterator


class Gate:
    """Closed while the process is measured. A worker that finds it closed rests before it.

    Args:
        patience: Seconds after which workers that do not come to rest hang.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.closed = self.over = False
        self.resting: set[str] = set()
        self.ended: set[str] = set()

    def rest(self, name: str) -> None:
        """Wait until it is open."""
        while self.closed:
            self.resting.add(name)
            time.sleep(0.005)
        self.resting.discard(name)

    async def rest_in_loop(self, name: str) -> None:
        """Wait until it is open, in the loop."""
        while self.closed:
            self.resting.add(name)
            await asyncio.sleep(0.005)
        self.resting.discard(name)

    @contextlib.contextmanager
    def all_resting(self, names: list[str]) -> Iterator[bool]:
        """A block in which all workers rest; whether they came to."""
        self.closed = True
        until = time.monotonic() + self.patience
        while not self.resting | self.ended >= set(names) and time.monotonic() < until:
            time.sleep(0.005)
        yield self.resting | self.ended >= set(names)
        self.closed = False
        while self.resting - self.ended and time.monotonic() < until + self.patience:
            time.sleep(0.005)
