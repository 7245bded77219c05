"""A group of ranks, as far as one process can see; tests/distributed has two."""

import signal
import threading
import time

import mlx.core as mx
import pytest

import mlx_patch as mp
from mlx_patch.errors import KindError
from mlx_patch.execution import ranks
from mlx_patch.execution.ranks import interrupts_held

METRIC = mp.metrics.LogitDiff(3, 5)


def test_what_is_no_group_is_refused(tiny, tokens):
    with pytest.raises(KindError, match=r"`group` must be a group of mx.distributed, or None. Got int"):
        mp.sweep(tiny(), tokens, mp.Scale(2.0), "resid_post", metric=METRIC, group=2)


def test_a_group_of_one_is_as_none(tiny, tokens):
    alone, grouped = (
        mp.sweep(tiny(), tokens, mp.Scale(2.0), "resid_post", metric=METRIC, group=group)
        for group in (None, mx.distributed.init())
    )
    assert alone.values.tobytes() == grouped.values.tobytes()
    assert alone.provenance == grouped.provenance


def test_ctrl_c_waits_for_the_end_of_a_block():
    done: list[int] = []

    def block() -> None:
        with interrupts_held():
            signal.raise_signal(signal.SIGINT)
            done.append(1)

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_that_is_cleared_never_comes():
    with interrupts_held() as came:
        signal.raise_signal(signal.SIGINT)
        came.clear()


def test_a_call_that_takes_longer_than_ctrl_c_is_waited_for(monkeypatch):
    """Nobody has pressed it."""
    monkeypatch.setattr("mlx_patch.execution.ranks._waiting.GRACE", 0.05)
    monkeypatch.setattr("mlx_patch.execution.ranks._waiting.POLL", 0.02)

    def slow() -> str:
        time.sleep(0.3)
        return "the value"

    assert ranks._waiting.wait_for(slow, ranks._waiting.Silence(0, 2)) == "the value"


def test_other_threads_may_hold_what_never_comes_to_them():
    seen: list[bool] = []

    def hold() -> None:
        with interrupts_held() as came:
            seen.append(not came)

    thread = threading.Thread(target=hold)
    thread.start()
    thread.join()
    assert seen == [True]
