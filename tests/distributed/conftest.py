"""Two ranks on this machine, through `mlx.launch` and MLX's ring."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from itertools import count
from pathlib import Path
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
    process = subprocess.Popen(
        command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    own_input, process.stdin = process.stdin, None  # kept open: `mlx.launch` spins on one that has ended
    try:
        said, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"a rank hangs: {process.communicate()[0]}") from None
    finally:
        if own_input:
            own_input.close()
    return process.returncode, said


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Any]]:
    """Runs a scenario of `program.py` on two ranks, once; returns what each wrote."""

    @cache
    def run(scenario: str) -> list[Any]:
        tmp_path = tmp_path_factory.mktemp(scenario)
        path = os.pathsep.join([str(PROGRAM.parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
        port = str(free_ports(2))
        command = [sys.executable, "-c", LAUNCH, "-n", "2", "--backend", "ring", "--starting-port", port, "--"]
        command += [sys.executable, str(PROGRAM), scenario, str(tmp_path)]
        without_compiler = {"MLX_DISABLE_COMPILE": "1"}  # g++ would take most of the time
        status, said = finished(command, {**os.environ, **without_compiler, "PYTHONPATH": path})
        written = [tmp_path / f"rank{rank}.json" for rank in (0, 1)]
        assert status == 0 and all(one.exists() for one in written), said
        return [json.loads(one.read_text()) for one in written]

    return run
