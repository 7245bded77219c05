"""A meeting of ranks: each sends its state and a message, and receives those of all.

A meeting is a collective, which waits for all, so every rank must come to every meeting. A rank that raises between
two meetings comes to the next one all the same and says so, and all ranks raise. A process that is gone comes to none;
MLX's ring then raises on the others.
"""

from dataclasses import dataclass
from enum import IntEnum
from zlib import crc32

import mlx.core as mx
import numpy as np

from mlx_patch.errors import RankError
from mlx_patch.execution.ranks._interrupts import interrupts_held

RankGroup = mx.distributed.Group

_SIGN = 0x6D705F73
"""What every message begins with: where a rank is gone, what comes in its place may be anything.

Change it with what ranks send each other, so that those of another version are refused.
"""

_NOT_SENT = "MLX returned numbers that no rank of this version of mlx_patch sent"


class State(IntEnum):
    """The state of a rank when it comes to a meeting."""

    READY = 0
    WORKING = 1
    INTERRUPTED = 2
    FAILED = 3


@dataclass(frozen=True)
class Reports:
    """The states and messages that ranks sent to a meeting, by rank."""

    states: tuple[State, ...]
    messages: list[bytes]


def meet(group: RankGroup | None, state: State, message: bytes = b"") -> Reports:
    """Send a state and a message to all ranks, and receive theirs.

    Raises:
        RankError: A rank failed, or is gone.
    """
    if group is None or group.size() == 1:
        return Reports((state,), [message])
    with interrupts_held():
        headers = _gather(group, np.array([[_SIGN, state, len(message), crc32(message, _SIGN)]], np.int64))
        if (headers[:, 0] != _SIGN).any():
            raise connection_lost(group, _NOT_SENT)
        # All ranks must send arrays of one shape, which is not empty.
        padded_length = int(headers[:, 2].max()) + 1
        padded_message = message.ljust(padded_length, b"\0")
        bodies = _gather(group, np.frombuffer(padded_message, np.uint8)[None])
    lengths = headers[:, 2].tolist()
    messages = [bytes(body[:length]) for body, length in zip(bodies, lengths, strict=True)]
    checksums = [crc32(rank_message, _SIGN) for rank_message in messages]
    if checksums != headers[:, 3].tolist():
        raise connection_lost(group, _NOT_SENT)
    states = tuple(State(number) for number in headers[:, 1].tolist())
    _refuse_failures(states, messages)
    return Reports(states, messages)


def _gather(group: RankGroup, row: np.ndarray) -> np.ndarray:
    """The rows of all ranks, by rank."""
    rows = mx.distributed.all_gather(mx.array(row), group=group)
    try:
        mx.eval(rows)  # without this, a rank that is gone leaves unwritten memory in the array, and no error
    except RuntimeError as error:
        raise connection_lost(group, str(error)) from error
    return np.array(rows)


def _refuse_failures(states: tuple[State, ...], messages: list[bytes]) -> None:
    if State.FAILED in states:
        rank = states.index(State.FAILED)
        reason = messages[rank].decode(errors="replace")
        raise RankError(f"Rank {rank} of {len(states)} failed: {_restart(reason)}")


def connection_lost(group: RankGroup, reason: str) -> RankError:
    """The error of a rank that lost the others."""
    return RankError(f"Rank {group.rank()} of {group.size()} lost the others: {_restart(reason)}")


def _restart(reason: str) -> str:
    """A reason with the remedy; it may end with a full stop of its own."""
    return f"{reason.rstrip('.')}. Restart the sweep on all ranks."
