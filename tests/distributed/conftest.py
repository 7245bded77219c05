"""Two ranks on this machine, through `mlx.launch` and MLX's ring."""

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen, TimeoutExpired
from time import monotonic
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("program.py")
FAULTS = Path(__file__).with_name("faults.py")
LAUNCH = "import sys; from mlx._distributed_utils.launch import main; sys.exit(main())"
collect_ignore = [FAULTS.name]
"""It imports `program`, as a script can that lies beside it."""
SECONDS = 180
"""Nothing here takes so long. What does hangs."""


def free_ports(number: int) -> int:
    """The first of some ports in a row that nobody listens at; test runs beside this one begin to look elsewhere."""
    for first in count(20_000 + os.getpid() * 8 % 12_000, number):
        if all(is_free(first + i) for i in range(number)):
            return first
    raise AssertionError


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def finished(command: Sequence[str], env: dict[str, str]) -> tuple[int, str]:
    """Run a command to its end, or kill it and all that it started. Its input is a pipe that nobody writes to."""
    process = Popen(
        command, env=env, stdin=PIPE, stdout=PIPE, stderr=STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    own_input, process.stdin = process.stdin, None  # kept open: `mlx.launch` spins on one that has ended
    try:
        said, _ = process.communicate(timeout=SECONDS)
    except TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return 1, f"a rank hangs: {process.communicate()[0]}"
    finally:
        if own_input:
            own_input.close()
    return process.returncode, said


def program(scenario: str, folder: Path, script: Path = PROGRAM) -> list[str]:
    return [sys.executable, str(script), scenario, str(folder)]


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(PROGRAM.parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    without_compiler = {"MLX_DISABLE_COMPILE": "1"}  # which would run g++ for most of the time
    return {**os.environ, **without_compiler, "PYTHONPATH": path}


@dataclass(frozen=True)
class Survivor:
    """What rank 0 found of a scenario of `faults.py` in which rank 1 is lost.

    Attributes:
        found: What it wrote.
        seconds: How long it took.
        ended: The exit status of rank 1 before the test killed it; None if it was still there.
        folder: Where both wrote.
    """

    found: Any
    seconds: float
    ended: int | None
    folder: Path


def two_processes(command: Sequence[str], folder: Path, **given: Any) -> list[Popen]:
    """A command on two ranks, over which nothing but MLX watches: `mlx.launch` ends all when one fails."""
    first = free_ports(2)
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{first}"], [f"127.0.0.1:{first + 1}"]]))
    env = {**environment(), "MLX_HOSTFILE": str(hosts)}
    return [Popen(command, env={**env, "MLX_RANK": str(rank)}, stdin=DEVNULL, **given) for rank in (0, 1)]


def end(ranks: Sequence[Popen]) -> None:
    for rank in ranks:
        rank.kill()
        rank.wait()


@pytest.fixture(scope="session")
def survivor(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Survivor]:
    """Runs a scenario of `faults.py` on two ranks, once."""

    @cache
    def run(scenario: str) -> Survivor:
        folder = tmp_path_factory.mktemp(scenario)
        began = monotonic()
        ranks = two_processes(program(scenario, folder, FAULTS), folder)
        try:
            assert ranks[0].wait(SECONDS) == 0
            seconds, ended = monotonic() - began, ranks[1].poll()
        finally:
            end(ranks)
        return Survivor(json.loads((folder / "rank0.json").read_text()), seconds, ended, folder)

    return run


@pytest.fixture
def printed(tmp_path: Path) -> Callable[[Path], str]:
    """Runs a script on two ranks from the project's root; returns what the first prints."""

    def run(script: Path) -> str:
        command = [sys.executable, str(script)]
        ranks = two_processes(command, tmp_path, cwd=PROGRAM.parents[2], stdout=PIPE, stderr=STDOUT, text=True)
        try:
            text, _ = ranks[0].communicate(timeout=SECONDS)
        finally:
            end(ranks)
            ranks[1].communicate()
        return text

    return run


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Any]]:
    """Runs a scenario of `program.py`, or of another script, on two ranks, once; returns what each wrote."""

    @cache
    def run(scenario: str, script: Path, folder: Path | None) -> tuple[int, str, list[Any]]:
        folder = folder or tmp_path_factory.mktemp(scenario)
        port = str(free_ports(2))
        command = [sys.executable, "-c", LAUNCH, "-n", "2", "--backend", "ring", "--starting-port", port, "--"]
        status, said = finished([*command, *program(scenario, folder, script)], environment())
        written = [folder / f"rank{rank}.json" for rank in (0, 1)]
        return status, said, [json.loads(one.read_text()) if one.exists() else None for one in written]

    def found(scenario: str, script: Path = PROGRAM, folder: Path | None = None) -> list[Any]:
        status, said, written = run(scenario, script, folder)
        assert status == 0, said
        assert None not in written, said
        return written

    return found


@pytest.fixture(scope="session")
def faulty(two_ranks: Callable[..., list[Any]], survivor: Callable[[str], Survivor]) -> list[Any]:
    """What both ranks found of scenario `outlived` of `faults.py`, with the checkpoints of ranks that were killed."""
    return two_ranks("outlived", FAULTS, survivor("killed").folder)
