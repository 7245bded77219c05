"""Runs the commands of docs/benchmarks.md, and writes there what they print, with machine and versions above.

python docs/make_benchmarks.py [overhead lenses ...]     those with one of the words; all take half an hour
"""

import os
import re
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path

from mlx_patch.provenance import machine, versions

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
RUN = re.compile(r"^```bash\npython ([^\n]+)\n```\n\n```text\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
"""A command, and what it printed."""


def surroundings() -> str:
    """The day, the machine, the versions, and what else was going on."""
    named = {"python", *versions()}
    parts = [f"{key} {value}" if key in named else value for key, value in machine().items()]
    return ", ".join([date.today().isoformat(), *parts, f"load {os.getloadavg()[0]:.1f}"])


def made(block: re.Match[str]) -> str:
    """A command with what it prints now."""
    command = block[1]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    argv = [sys.executable, *shlex.split(command)]
    run = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    return f"```bash\npython {command}\n```\n\n```text\n{surroundings()}\n\n{run.stdout.strip()}\n```"


def main(*words: str) -> None:
    """Write the page again, one command after another."""
    for block in RUN.finditer(PAGE.read_text(encoding="utf-8")):
        if not words or any(word in block[1] for word in words):
            new = made(block)
            text = PAGE.read_text(encoding="utf-8")
            PAGE.write_text(text.replace(block[0], new), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
