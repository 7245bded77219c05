"""Commands that write files, killed at random moments and begun again: the same bytes in the end, nothing left behind.

`KILLS=10 python -m pytest -q tests/unit/cli/test_killed_commands.py` kills each of four so often.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TINY = str(ROOT / "examples" / "models" / "tiny_instruct_ext")
KILLS = int(os.environ.get("KILLS", "0"))
PROMPTS = ("--prompt", "Mars (planet 7, diameter", "--source", "Mars (planet 4, diameter")
ANSWERS = ("--right", "4", "--wrong", "7")
CELLS = ("--at", "z", "--over", "layer,pos", "--executor", "reference")
COMMANDS = {
    "sweep": (*PROMPTS, *ANSWERS, *CELLS, "--checkpoint", "c.npz", "--save", "r.npz", "--html", "r.html"),
    "paths": (*PROMPTS, *ANSWERS, *CELLS, "--via", "logits", "--checkpoint", "c.npz", "--save", "r.npz"),
    "attribute": (*PROMPTS, *ANSWERS, "--at", "z", "--over", "layer,pos,head", "--confirm", "100", "--save", "r.npz"),
    "lens": (*PROMPTS[:2], "--html", "r.html", "--json", "r.json"),
}


def started(verb, folder):
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "mlx_patch", verb, TINY, *COMMANDS[verb], "--quiet"]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.skipif(not KILLS, reason="each kill takes as long as a command")
@pytest.mark.parametrize("verb", COMMANDS)
def test_a_killed_command_ends_the_same(tmp_path, verb):
    whole, path, chance = tmp_path / "whole", tmp_path / "killed", random.Random(0)
    began = time.monotonic()
    with started(verb, whole) as first:
        assert first.wait() == 0, first.stderr.read()
    took = time.monotonic() - began
    kills = 0
    for _ in range(5 * KILLS):
        with started(verb, path) as now:
            time.sleep(chance.uniform(0.4, 0.9) * took)
            now.kill()
            kills += now.wait() == -signal.SIGKILL
        if kills == KILLS:
            break
    assert kills == KILLS, "commands were done before they were killed"
    with started(verb, path) as last:
        assert last.wait() == 0, last.stderr.read()
    assert contents(path) == contents(whole)
