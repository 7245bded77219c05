"""`Ranks`: the processes of `mlx.launch`, which divide the passes of a sweep and exchange their numbers."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx

from mlx_patch.architectures import Layout, sharding
from mlx_patch.errors import ArchitectureError, KindError, RankError
from mlx_patch.execution.ranks._heartbeats import SILENCE, Heartbeats, PassRunner
from mlx_patch.execution.ranks._interrupts import interrupts_held
from mlx_patch.execution.ranks._meeting import RankGroup, Reports, State, connection_lost, meet
from mlx_patch.execution.ranks._waiting import Silence, wait_for
from mlx_patch.provenance import versions

_BACKEND_MESSAGE = re.compile(r"\[(ring|jaccl|mpi|nccl)\]")
"""How messages of MLX about its ranks begin."""


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
        if State.INTERRUPTED in self._meet(State.READY).states:
            raise KeyboardInterrupt

    def least(self, number: int | None) -> int | None:
        """The smallest number of all ranks. None stands for a rank without one, and is returned if all are."""
        numbers = [json.loads(message) for message in self.exchange(json.dumps(number).encode())]
        return min((rank_number for rank_number in numbers if rank_number is not None), default=None)

    def refuse_other_versions(self) -> None:
        """Refuse ranks whose libraries or devices would round, draw or meet otherwise.

        Raises:
            RankError: On every rank; the message names a library, a rank and both versions.
        """
        if self.size == 1:
            return
        own_versions = {**versions(), "numpy": version("numpy"), "device": mx.default_device().type.name}
        for rank, name, own, first in self._differences(own_versions):
            raise RankError(
                f"Every rank must have the same versions. Got {name} {own} on rank {rank}, and {first} on rank 0. "
                "Install the same versions on every machine."
            )

    def refuse_others(self, sweep: Mapping[str, str]) -> None:
        """Refuse ranks that do not all run the same sweep.

        Args:
            sweep: A digest of each part of the sweep, by what a rank has if it differs: "another model".
        Raises:
            RankError: On every rank; the message names a part and a rank.
        """
        for rank, difference, _, _ in self._differences(sweep):
            raise RankError(
                f"Every rank must run the same sweep. Got {difference} on rank {rank} than on rank 0. "
                "Use the same model, arguments and checkpoints on every rank."
            )

    def _differences(self, own_entries: Mapping[str, str]) -> Iterator[tuple[int, str, str, str]]:
        """Meet, and compare what all ranks send: a rank, a name, the rank's entry of that name and rank 0's."""
        by_rank = [json.loads(message) for message in self.exchange(json.dumps(dict(own_entries)).encode())]
        for rank, entries in enumerate(by_rank):
            for name, first in by_rank[0].items():
                if entries[name] != first:
                    yield rank, name, entries[name], first

    def exchange(self, message: bytes) -> list[bytes]:
        """Send a message to all ranks, and receive theirs, by rank."""
        return self._meet(State.READY, message).messages

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
        if self.group is None or self.size == 1 or not self.divided:
            return self._run_all(run, show), []
        heartbeats = Heartbeats(self.group, show)
        try:
            heartbeats.run_passes(run)
            interrupted = heartbeats.wait_for_all()
            own_numbers = pack()
        except BaseException as error:
            if heartbeats.end_early(error):
                self._announce(error)
            raise
        with interrupts_held() as signals:
            reports = self._meet(State.READY, own_numbers, SILENCE)
            signals.clear()  # Ctrl-C would end a sweep, and this one has just ended
        if State.INTERRUPTED in reports.states:  # a rank gave up before it sent what it found
            raise KeyboardInterrupt
        return interrupted, reports.messages

    def _run_all(self, run: PassRunner, show: Callable[[int], None]) -> bool:
        """Run every pass on this rank; whether Ctrl-C ended it.

        Raises:
            RankError: The model is sharded, and another rank is gone.
        """
        try:
            run(show)
        except KeyboardInterrupt:
            if self.size > 1:  # the others may be in the middle of a pass, which cannot go on without this rank
                raise
            return True
        except RuntimeError as error:
            if self.group is None or self.divided or not _BACKEND_MESSAGE.match(str(error)):
                raise
            raise connection_lost(self.group, str(error)) from error
        self._meet(State.READY)  # where the model is sharded: that no rank was lost on the way
        return False

    def _meet(self, state: State, message: bytes = b"", limit: float | None = None) -> Reports:
        """Meet all ranks.

        The ranks of a sharded model meet where its passes run, so that the two never mix.

        Args:
            state: The state of this rank.
            message: What it sends.
            limit: The seconds until ranks that do not come are given up; None waits as long as it takes.
        Raises:
            RankError: A rank failed, is gone or does not come.
        """
        if self.group is None or self.size == 1 or not self.divided:
            return meet(self.group, state, message)
        silence = Silence(self.rank, self.size)
        return wait_for(partial(meet, self.group, state, message), silence, limit)

    def _announce(self, error: BaseException) -> None:
        """Tell the other ranks that this one has raised. No error of the meeting replaces the one that was raised."""
        if not self.divided:
            return  # the others may be in the middle of a forward pass, which would take this for a part of a sum
        with suppress(RankError, KeyboardInterrupt):
            if isinstance(error, KeyboardInterrupt):
                self._meet(State.INTERRUPTED)
            else:
                self._meet(State.FAILED, f"{type(error).__name__}: {error}".encode())


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
