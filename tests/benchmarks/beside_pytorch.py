"""mlx_patch beside TransformerLens and nnsight: four tasks on SmolLM2-135M in float32, on this CPU.

    python tests/benchmarks/beside_pytorch.py [--threads 2] [--repetitions 3] [--share 0.25] [--only grid]

It makes an environment of its own in `results/beside_pytorch` with torch, transformer-lens and nnsight, and loads the
same weights in each library. On Linux, PyPI's torch brings CUDA, several GB: `--torch` takes a version or a wheel for
CPUs, with which the environment has 1.6 GB. Every task runs in fresh processes, one for each library. They take turns,
so that whatever else the machine does falls on all alike. Printed are, for each library:

* the median of the seconds on the clock, and of those that it kept a processor busy;
* the medians of both over mlx_patch's in the same repetition;
* the peak of its process's memory, with the weights.

Where others use the machine, take `--threads 1` and look at busy seconds, which do not count waiting. With more
threads, some of the busy seconds are waiting for each other.

* forward: all logits of a prompt of 672 tokens.
* grid: the stream after each of 30 layers at each of 16 positions, replaced by that of another prompt.
* last: the same at the last of 672 positions, 30 layers.
* heads: `z` of each of 270 heads at the last of 672 positions.

mlx_patch runs all cells. The others run one cell after another at the same cost, so they run a share of the cells, and
their time is that over the share. Numbers of cells that both ran must agree to 1e-3, and logits too. On Linux mlx_patch
runs with OpenBLAS if it finds it, unless `--stock` is given: MLX's wheel for Linux brings the reference BLAS.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlx_patch import HookedModel
from mlx_patch.provenance import versions
from mlx_patch.testing import smollm2_folder

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OPENBLAS = Path("/usr/lib/x86_64-linux-gnu/openblas-pthread/libopenblas.so.0")
PACKAGES = ("torch", "transformer-lens", "nnsight")
OURS, LENS, NNSIGHT = "mlx_patch", "TransformerLens", "nnsight"
SCRIPTS = {OURS: "with_mlx_patch.py", LENS: "with_transformer_lens.py", NNSIGHT: "with_nnsight.py"}
IOI = "When John and Mary went to the shops, John gave a bottle of milk to"
OTHER = "When Mary and John went to the shops, Mary gave a bottle of milk to"
N_LAYERS, N_HEADS, D_HEAD, N_LONG = 30, 9, 64, 672
CLOCKS = ("seconds", "busy")
CLOSE = 1e-3
"""How far logits of two libraries may be apart, in nats."""

HEAD = "| task | library | seconds | busy | seconds, times ours | busy, times ours | peak, MiB |" + "\n|" + "---|" * 7

Answers = dict[str, list[dict[str, Any]]]


def setting(threads: int) -> dict[str, Any]:
    """The prompts as token ids, and what else the workers are told."""
    folder = smollm2_folder("float32")
    model = HookedModel.load(folder, lazy=True)
    short, other = (model.tokenize(text)[0].tolist() for text in (IOI, OTHER))
    text = " ".join(Path(name).read_text(encoding="utf-8") for name in (ROOT / "LICENSE", ROOT / "CONTRIBUTING.md"))
    long = model.tokenize(text)[0].tolist()[:N_LONG]
    answer, foil = (model.tokenize(name).item() for name in (" Mary", " John"))
    prompts = {"short": short, "other": other, "long": long, "reversed": [long[0], *long[:0:-1]]}
    return {"folder": str(folder), "threads": threads, "answer": answer, "foil": foil, "d_head": D_HEAD, **prompts}


def cells_of(task: str, n_short: int, share: float = 1.0) -> list[list[int]]:
    """The cells of a task, or an evenly spread share of them: whole layers of a grid by rows, else cells."""
    across = {"grid": n_short, "grid by rows": n_short, "heads": N_HEADS}.get(task)
    every = max(1, round(1 / share))
    if task == "forward":
        return []
    if across is None:
        return [[layer] for layer in range(N_LAYERS)][every // 2 :: every]
    if task == "heads":
        return [[layer, (layer // every) % across] for layer in range(every // 2, N_LAYERS, every)]
    return [[layer, number] for layer in range(every // 2, N_LAYERS, every) for number in range(across)]


def environment(folder: Path, torch: str) -> Path:
    """The Python that has torch and the two libraries; made if it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        for packages in ([torch], PACKAGES):
            subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    return python


def installed(python: Path) -> str:
    """The versions of the other libraries."""
    code = "import importlib.metadata as m, sys; print(*(f'{p} {m.version(p)}' for p in sys.argv[1:]), sep=', ')"
    return subprocess.run([python, "-c", code, *PACKAGES], check=True, capture_output=True, text=True).stdout.strip()


class Worker:
    """A library in a process of its own."""

    def __init__(self, library: str, python: Path, told: dict[str, Any], stock: bool) -> None:
        threads = str(told["threads"])
        env = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        env.pop("LD_PRELOAD", None)
        command = [str(python), str(HERE / "beside" / SCRIPTS[library]), json.dumps(told)]
        if library == OURS:
            command[0] = sys.executable
            env |= {"PYTHONPATH": str(ROOT)}
            if OPENBLAS.exists() and not stock:
                env |= {"LD_PRELOAD": str(OPENBLAS)}
        self.errors = tempfile.TemporaryFile("w+")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors, "text": True}
        self.process = subprocess.Popen(command, env=env, **pipes)
        self.tasks = self.read()["tasks"]

    def read(self) -> dict[str, Any]:
        """The next answer."""
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            self.errors.seek(0)
            raise SystemExit(f"{self.process.args[1]} ended with status {status}:\n{self.errors.read()[-2000:]}")
        return json.loads(line)

    def run(self, task: str, cells: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Run cells of a task."""
        self.process.stdin.write(json.dumps({"task": task, "cells": cells}) + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()
        self.errors.close()


def measured(
    task: str, told: dict[str, Any], python: Path, libraries: Sequence[str], repetitions: int, share: float, stock: bool
) -> Answers:
    """What each library answers in each repetition, after a short run of each; times are those of all cells."""
    workers = {name: Worker(name, python, told, stock) for name in libraries}
    turns = [(name, of) for name, worker in workers.items() for of in worker.tasks if of in (task, f"{task} by rows")]
    answers: Answers = {f"{name}, 16 rows a run" if "rows" in of else name: [] for name, of in turns}
    n_short, few = len(told["short"]), cells_of(task, len(told["short"]), share)
    for name, of in turns:
        workers[name].run(of, cells_of(task, n_short, 0.1)[:1])
    for _ in range(repetitions):
        for (name, of), label in zip(turns, answers, strict=True):
            answer = workers[name].run(of, few)
            if name != OURS and few:
                for clock in CLOCKS:
                    answer[clock] *= len(cells_of_all(task, n_short)) / len(few)
            answers[label].append(answer)
    for worker in workers.values():
        worker.close()
    return answers


def cells_of_all(task: str, n_short: int) -> list[tuple[int, ...]]:
    """Every cell of a task."""
    second = {"grid": n_short, "heads": N_HEADS}.get(task, 1)
    return [(layer, number) for layer in range(N_LAYERS) for number in range(second)]


def apart(answers: Answers) -> float:
    """The largest difference of any library's numbers to those of mlx_patch."""
    ours = answers[OURS][0]["values"]
    every = [answer["values"] for found in answers.values() for answer in found]
    return max(abs(one - other) for values in every for one, other in zip(values, ours, strict=True))


def lines(task: str, answers: Answers) -> list[str]:
    """A row for each library."""
    rows = []
    for label, found in answers.items():
        cells = [f"{statistics.median(answer[clock] for answer in found):.2f}" for clock in CLOCKS]
        for clock in CLOCKS:
            ratios = [theirs[clock] / ours[clock] for theirs, ours in zip(found, answers[OURS], strict=True)]
            cells.append(f"{statistics.median(ratios):.2f}")
        peak = max(answer["peak"] for answer in found)
        rows.append(f"| {' | '.join([task, label, *cells, f'{peak:.0f}'])} |")
    return rows


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of each library")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="of the cells that the other libraries run")
    parser.add_argument("--only", nargs="+", default=["forward", "grid", "last", "heads"], help="tasks")
    parser.add_argument("--stock", action="store_true", help="mlx_patch with the BLAS of MLX's wheel")
    parser.add_argument("--alone", action="store_true", help="mlx_patch without the others")
    parser.add_argument(
        "--venv", type=Path, default=ROOT / "results" / "beside_pytorch", help="the environment's folder"
    )
    parser.add_argument("--torch", default="torch", help="what pip installs as torch: a version, or a wheel's path")
    return parser.parse_args()


def main() -> None:
    """Print the table."""
    ask = arguments()
    python = environment(ask.venv, ask.torch)
    told = setting(ask.threads)
    libraries = [OURS] if ask.alone else [OURS, LENS, NNSIGHT]
    blas = "the one that mlx came with" if ask.stock or not OPENBLAS.exists() else "OpenBLAS"
    ours = ", ".join(f"{name} {version}" for name, version in versions().items())
    print(f"{ours}, BLAS: {blas}; {installed(python)}")
    how = f"{ask.threads} threads, {ask.repetitions} repetitions, others run {ask.share} of the cells"
    print(f"{platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {how}\n")
    print(HEAD, flush=True)
    for task in ask.only:
        answers = measured(task, told, python, libraries, ask.repetitions, ask.share, ask.stock)
        print("\n".join(lines(task, answers)), flush=True)
        if apart(answers) > CLOSE:
            raise SystemExit(f"{task}: the numbers are {apart(answers)} apart, more than {CLOSE}")
    print(f"\nLoad at the end {os.getloadavg()[0]:.1f}. All numbers agree to {CLOSE}.")


if __name__ == "__main__":
    main()
