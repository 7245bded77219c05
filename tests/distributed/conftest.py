"""Two ranks on this machine, through `mlx.launch` and MLX's ring."""

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from functools import cache
from itertools import count
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen, TimeoutExpired
from time import monotonic
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("program.py")
LAUNCH = "import sys; from mlx._distributed_utils.launch import main; sys.exit(main())"
SECONDS = 60
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


def program(scenario: str, folder: Path) -> list[str]:
    return [sys.executable, str(PROGRAM), scenario, str(folder)]


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(PROGRAM.parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    without_compiler = {"MLX_DISABLE_COMPILE": "1"}  # which would run g++ for most of the time
    return {**os.environ, **without_compiler, "PYTHONPATH": path}


@pytest.fixture
def one_killed(tmp_path: Path) -> tuple[Any, float]:
    """What rank 0 of scenario "killed" wrote, and how many seconds it took. Nothing but MLX watches over the ranks."""
    first = free_ports(2)
    hosts = tmp_path / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{first}"], [f"127.0.0.1:{first + 1}"]]))
    env = {**environment(), "MLX_HOSTFILE": str(hosts)}
    began = monotonic()
    ranks = [Popen(program("killed", tmp_path), env={**env, "MLX_RANK": str(n)}, stdin=DEVNULL) for n in (0, 1)]
    try:
        assert ranks[1].wait(SECONDS) == -signal.SIGKILL
        assert ranks[0].wait(SECONDS) == 0
    finally:
        for rank in ranks:
            rank.kill()
    return json.loads((tmp_path / "rank0.json").read_text()), monotonic() - began


@pytest.fixture
def launched() -> Callable[[Path], tuple[int, str]]:
    """Runs a script on two ranks from the project's root; returns its exit status, and what the ranks print."""

    def run(script: Path) -> tuple[int, str]:
        port = str(free_ports(2))
        command = [sys.executable, "-c", LAUNCH, "-n", "2", "--backend", "ring", "--starting-port", port, "--cwd"]
        return finished([*command, str(PROGRAM.parents[2]), "--", sys.executable, str(script)], environment())

    return run


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Any]]:
    """Runs a scenario of `program.py` on two ranks, once; returns what each wrote."""

    @cache
    def run(scenario: str) -> tuple[int, str, list[Any]]:
        folder = tmp_path_factory.mktemp(scenario)
        port = str(free_ports(2))
        command = [sys.executable, "-c", LAUNCH, "-n", "2", "--backend", "ring", "--starting-port", port, "--"]
        status, said = finished([*command, *program(scenario, folder)], environment())
        written = [folder / f"rank{rank}.json" for rank in (0, 1)]
        return status, said, [json.loads(one.read_text()) if one.exists() else None for one in written]

    def found(scenario: str) -> list[Any]:
        status, said, written = run(scenario)
        assert status == 0, said
        assert None not in written, said
        return written

    return found
