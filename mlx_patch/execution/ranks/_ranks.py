"""`Ranks`: the processes of `mlx.launch`, which divide the passes of a sweep and tell each other what they found.

Ranks meet: each says how it is and something more, and hears what all the others say. That is a collective, which
waits for all, so every rank must come to every meeting. Whoever raises between two meetings comes to the next one all
the same and says so, and everybody raises. A process that is gone comes to none; MLX's ring then raises on the others.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from time import monotonic
from zlib import crc32

import mlx.core as mx
import numpy as np

from mlx_patch.architectures import Layout, sharding
from mlx_patch.errors import ArchitectureError, KindError, RankError
from mlx_patch.execution.ranks._interrupts import interrupts_held

RankGroup = mx.distributed.Group

HEARTBEAT = 5.0
"""Seconds between two meetings while passes run, at least. A pass is not interrupted for one."""


_SIGN = 0x6D705F72
"""What every message begins with: where a rank is gone, what comes in its place may be anything."""


class State(IntEnum):
    """How a rank is when it comes to a meeting."""

    READY = 0
    WORKING = 1
    INTERRUPTED = 2
    FAILED = 3


class _Stopped(Exception):
    """Another rank was interrupted, so this one stops as well."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a group; or this one alone, which meets nobody.

    Attributes:
        group: The processes.
        divided: Whether each runs its own passes. Otherwise all run every pass, in step: the model itself is sharded.
    """

    group: RankGroup | None = None
    divided: bool = True

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        return 0 if self.group is None else self.group.rank()

    @property
    def size(self) -> int:
        """How many processes there are."""
        return 1 if self.group is None else self.group.size()

    def own_file(self, path: Path) -> Path:
        """This rank's own file, `night.rank0of2.npz` for `night.npz`; where it is alone, the file itself."""
        own = f"{path.stem}.rank{self.rank}of{self.size}{path.suffix}"
        return path if self.size == 1 else path.with_name(own)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is done inside is done on every rank, or raises on every rank.

        Raises:
            RankError: It raised on another rank.
            KeyboardInterrupt: Ctrl-C came to another rank.
        """
        try:
            yield
        except BaseException as error:
            self._say_why(error)
            raise
        if State.INTERRUPTED in self._meet(State.READY).states:
            raise KeyboardInterrupt

    def least(self, number: int | None) -> int | None:
        """The smallest of a number of each rank; None says that a rank has none."""
        heard = self._meet(State.READY, json.dumps(number).encode()).said
        return min((each for each in map(json.loads, heard) if each is not None), default=None)

    def refuse_others(self, sweep: Mapping[str, str]) -> None:
        """Refuse ranks that do not all run the same sweep.

        Args:
            sweep: What it is, each part by its name.
        Raises:
            RankError: On every rank; the message names a part and a rank.
        """
        heard = [json.loads(each) for each in self._meet(State.READY, json.dumps(dict(sweep)).encode()).said]
        for rank, other in enumerate(heard):
            for name, part in heard[0].items():
                if other[name] != part:
                    raise RankError(
                        f"`group` must have the same sweep on every rank. Got another {name} on rank {rank} than on "
                        "rank 0. Give every rank the same arguments."
                    )

    def work(
        self, run: Callable[[Callable[[int], None]], None], found: Callable[[], bytes], more: Callable[[int], None]
    ) -> tuple[bool, list[bytes]]:
        """Run the passes of this rank while the others run theirs.

        Args:
            run: Runs them, and is given a function to be called after each pass with the number of its cells.
            found: What this rank found in the end.
            more: Called with the number of cells that have been done on any rank since it was called last.
        Returns:
            Whether Ctrl-C ended it, on any rank; and what each rank found, by rank.
        Raises:
            RankError: A pass raised on another rank, or another rank is gone.
        """
        if self.size == 1 or not self.divided:
            return self._alone(run, more), []
        meetings = _Meetings(self, more)
        try:
            interrupted = meetings.passes(run)
            with interrupts_held() as came:
                interrupted = interrupted or meetings.until_all_are_ready()
                last = self._meet(State.READY, found())
                came.clear()  # it ends a sweep, and this one has just ended
        except RankError:
            raise
        except BaseException as error:
            self._say_why(error)
            raise
        if State.INTERRUPTED in last.states:  # a rank gave up before it said what it found
            raise KeyboardInterrupt
        return interrupted, last.said

    def _alone(self, run: Callable[[Callable[[int], None]], None], more: Callable[[int], None]) -> bool:
        try:
            run(more)
        except KeyboardInterrupt:
            if self.size > 1:  # the others may be in the middle of a pass, which cannot go on without this rank
                raise
            return True
        self._meet(State.READY)  # where the model is sharded, nobody was lost on the way
        return False

    def _say_why(self, error: BaseException) -> None:
        """Tell the others that this rank has raised. What it raised is what counts here, so nothing else is."""
        if not self.divided:
            return  # the others may be in the middle of a forward pass, which would take this for a part of a sum
        with suppress(RankError, KeyboardInterrupt):
            if isinstance(error, KeyboardInterrupt):
                self._meet(State.INTERRUPTED)
            else:
                self._meet(State.FAILED, f"{type(error).__name__}: {error}".encode())

    def _meet(self, state: State, said: bytes = b"") -> "_Heard":
        """Say something, and hear what every rank says.

        Raises:
            RankError: A rank says that it failed, or is gone.
        """
        if self.size == 1:
            return _Heard((state,), [said])
        with interrupts_held():
            heads = self._collected(np.array([[_SIGN, state, len(said), crc32(said, _SIGN)]], np.int64))
            if (heads[:, 0] != _SIGN).any():
                raise self._lost("numbers that no rank sent")
            longest = int(heads[:, 2].max())
            bodies = self._collected(np.frombuffer(said.ljust(longest + 1, b"\0"), np.uint8)[None])
        heard = [bytes(body[:size]) for body, size in zip(bodies, heads[:, 2].tolist(), strict=True)]
        if [crc32(each, _SIGN) for each in heard] != heads[:, 3].tolist():
            raise self._lost("numbers that no rank sent")
        states = tuple(State(state) for state in heads[:, 1].tolist())
        if State.FAILED in states:
            failed = states.index(State.FAILED)
            raise RankError(
                f"`group` must have no rank that fails. Got on rank {failed} of {self.size}: "
                f"{heard[failed].decode(errors='replace')}"
            )
        return _Heard(states, heard)

    def _collected(self, row: np.ndarray) -> np.ndarray:
        rows = mx.distributed.all_gather(mx.array(row), group=self.group)
        try:
            mx.eval(rows)  # what reads an array without this is given memory that nobody wrote, and no error
        except RuntimeError as error:
            raise self._lost(str(error)) from error
        return np.array(rows)

    def _lost(self, what: str) -> RankError:
        return RankError(
            f"`group` must keep its {self.size} ranks to the end of the sweep. Got from MLX, on rank "
            f"{self.rank}: {what}. Start the sweep again on all ranks."
        )


@dataclass(frozen=True)
class _Heard:
    """What was said at a meeting, by rank."""

    states: tuple[State, ...]
    said: list[bytes]


class _Meetings:
    """The meetings of one rank while passes run, every few seconds."""

    def __init__(self, ranks: Ranks, more: Callable[[int], None]):
        self.ranks, self.more = ranks, more
        self.cells, self.shown, self.last = 0, 0, monotonic()

    def passes(self, run: Callable[[Callable[[int], None]], None]) -> bool:
        """Run the passes of this rank; whether Ctrl-C ended it, here or on another rank."""
        try:
            run(self._after)
        except _Stopped:
            return True
        except KeyboardInterrupt:
            self._hold(State.INTERRUPTED)
            return True
        return False

    def until_all_are_ready(self) -> bool:
        """Meet until every rank has run its passes; whether Ctrl-C ended it."""
        while True:
            states = self._hold(State.READY).states
            if State.INTERRUPTED in states:
                return True
            if State.WORKING not in states:
                return False

    def _after(self, cells: int) -> None:
        """After each pass of so many cells: meet if it is time.

        Raises:
            _Stopped: Ctrl-C came to another rank.
        """
        self.cells += cells
        if monotonic() - self.last >= HEARTBEAT and State.INTERRUPTED in self._hold(State.WORKING).states:
            raise _Stopped

    def _hold(self, state: State) -> _Heard:
        """One meeting, at which everybody hears how far all are."""
        heard = self.ranks._meet(state, str(self.cells).encode())
        done = sum(map(int, heard.said))
        if done > self.shown:
            self.more(done - self.shown)
        self.shown, self.last = done, monotonic()
        return heard


def ranks_of(group: RankGroup | None, layout: Layout) -> Ranks:
    """The processes that run a sweep.

    Args:
        group: Those that divide its passes.
        layout: The model's layout.
    Raises:
        KindError: `group` is none.
        ArchitectureError: The model is sharded, so that every rank takes part in every pass.
    """
    if not (group is None or isinstance(group, RankGroup)):
        raise KindError(
            f"`group` must be a group of mx.distributed, or None. Got {type(group).__name__}. "
            "Write group=mx.distributed.init()."
        )
    sharded = sharding(layout.model)
    if sharded is None:
        return Ranks(group)
    if group is not None and group.size() > 1:
        raise ArchitectureError(
            "`group` must be None where the model is sharded: every rank takes part in every pass. "
            f"Got a group of {group.size()}. Leave it out, or load the model whole on each rank."
        )
    return Ranks(sharded, divided=False)
