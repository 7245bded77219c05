"""`Ranks`: the processes of `mlx.launch`, which divide the passes of a sweep and exchange their numbers."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from mlx_patch.architectures import Layout, sharding
from mlx_patch.errors import ArchitectureError, KindError, RankError
from mlx_patch.execution.ranks._interrupts import interrupts_held
from mlx_patch.execution.ranks._meeting import RankGroup, Reports, State, meet

HEARTBEAT = 5.0
"""Seconds between two meetings while passes run, at least. A pass is not interrupted for one."""

PassRunner = Callable[[Callable[[int], None]], None]
"""Runs the passes of a rank. It calls its argument after each pass, with the number of the pass's cells."""


class _StoppedError(Exception):
    """Another rank was interrupted, so this rank stops too."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a group; or this one alone, which has no meetings.

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
        """The file of this rank alone, `night.rank0of2.npz` for `night.npz`; the file itself if there is one rank."""
        if self.size == 1:
            return path
        return path.with_name(f"{path.stem}.rank{self.rank}of{self.size}{path.suffix}")

    @contextmanager
    def together(self) -> Iterator[None]:
        """A context that ends well on every rank, or raises on every rank.

        Raises:
            RankError: It raised on another rank.
            KeyboardInterrupt: Another rank received Ctrl-C.
        """
        try:
            yield
        except BaseException as error:
            self._announce(error)
            raise
        if State.INTERRUPTED in meet(self.group, State.READY).states:
            raise KeyboardInterrupt

    def least(self, number: int | None) -> int | None:
        """The smallest number of all ranks. None stands for a rank without one, and is returned if all are."""
        reports = meet(self.group, State.READY, json.dumps(number).encode())
        numbers = [json.loads(message) for message in reports.messages]
        return min((rank_number for rank_number in numbers if rank_number is not None), default=None)

    def refuse_others(self, sweep: Mapping[str, str]) -> None:
        """Refuse ranks that do not all run the same sweep.

        Args:
            sweep: A digest of each part of the sweep, by the part's name.
        Raises:
            RankError: On every rank; the message names a part and a rank.
        """
        reports = meet(self.group, State.READY, json.dumps(dict(sweep)).encode())
        sweeps = [json.loads(message) for message in reports.messages]
        for rank, rank_sweep in enumerate(sweeps):
            for name, digest in sweeps[0].items():
                if rank_sweep[name] != digest:
                    raise RankError(
                        f"`group` must run the same sweep on every rank. Got a different {name} on rank {rank} than on "
                        "rank 0. Pass the same arguments on every rank."
                    )

    def work(self, run: PassRunner, pack: Callable[[], bytes], show: Callable[[int], None]) -> tuple[bool, list[bytes]]:
        """Run the passes of this rank while the others run theirs.

        Args:
            run: Runs the passes of this rank.
            pack: Returns what this rank has found; called once, at the end.
            show: Called with the number of cells that any rank has finished since the last call.
        Returns:
            Whether Ctrl-C ended it, on any rank; and what each rank found, by rank.
        Raises:
            RankError: A pass raised on another rank, or another rank is gone.
        """
        if self.size == 1 or not self.divided:
            return self._run_all(run, show), []
        heartbeats = _Heartbeats(self.group, show)
        try:
            interrupted = heartbeats.run_passes(run)
            with interrupts_held() as signals:
                interrupted = interrupted or heartbeats.wait_for_all()
                reports = meet(self.group, State.READY, pack())
                signals.clear()  # Ctrl-C would end a sweep, and this one has just ended
        except RankError:
            raise
        except BaseException as error:
            self._announce(error)
            raise
        if State.INTERRUPTED in reports.states:  # a rank gave up before it sent what it found
            raise KeyboardInterrupt
        return interrupted, reports.messages

    def _run_all(self, run: PassRunner, show: Callable[[int], None]) -> bool:
        """Run every pass on this rank; whether Ctrl-C ended it."""
        try:
            run(show)
        except KeyboardInterrupt:
            if self.size > 1:  # the others may be in the middle of a pass, which cannot go on without this rank
                raise
            return True
        meet(self.group, State.READY)  # where the model is sharded: that no rank was lost on the way
        return False

    def _announce(self, error: BaseException) -> None:
        """Tell the other ranks that this one has raised. No error of the meeting replaces the one that was raised."""
        if not self.divided:
            return  # the others may be in the middle of a forward pass, which would take this for a part of a sum
        with suppress(RankError, KeyboardInterrupt):
            if isinstance(error, KeyboardInterrupt):
                meet(self.group, State.INTERRUPTED)
            else:
                meet(self.group, State.FAILED, f"{type(error).__name__}: {error}".encode())


class _Heartbeats:
    """The meetings of a rank every few seconds while passes run, at which all learn how many cells are finished."""

    def __init__(self, group: RankGroup | None, show: Callable[[int], None]):
        self.group = group
        self.show = show
        self.n_cells = 0  # that this rank has finished
        self.n_shown = 0  # of all ranks
        self.last_meeting_at = monotonic()

    def run_passes(self, run: PassRunner) -> bool:
        """Run the passes of this rank; whether Ctrl-C ended it, here or on another rank."""
        try:
            run(self._finish_pass)
        except _StoppedError:
            return True
        except KeyboardInterrupt:
            self._meet(State.INTERRUPTED)
            return True
        return False

    def wait_for_all(self) -> bool:
        """Meet until every rank has run its passes; whether Ctrl-C ended it."""
        while True:
            states = self._meet(State.READY).states
            if State.INTERRUPTED in states:
                return True
            if State.WORKING not in states:
                return False

    def _finish_pass(self, cells: int) -> None:
        """Count the cells of a finished pass, and meet if it is time.

        Raises:
            _StoppedError: Another rank received Ctrl-C.
        """
        self.n_cells += cells
        if monotonic() - self.last_meeting_at < HEARTBEAT:
            return
        if State.INTERRUPTED in self._meet(State.WORKING).states:
            raise _StoppedError

    def _meet(self, state: State) -> Reports:
        """Meet once, and show the cells that all ranks have finished since the last meeting."""
        reports = meet(self.group, state, str(self.n_cells).encode())
        n_done = sum(map(int, reports.messages))
        if n_done > self.n_shown:
            self.show(n_done - self.n_shown)
        self.n_shown = n_done
        self.last_meeting_at = monotonic()
        return reports


def ranks_of(group: RankGroup | None, layout: Layout) -> Ranks:
    """The processes that run a sweep.

    Args:
        group: The processes that divide its passes.
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
            "`group` must be None if the model is sharded: every rank takes part in every pass. Got a group of "
            f"{group.size()}. Leave it out, or load the whole model on each rank."
        )
    return Ranks(sharded, divided=False)
