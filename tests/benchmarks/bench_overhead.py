"""What a run through mlx_patch costs beside the bare model, on SmolLM2 with a prompt of 16 tokens.

    python tests/benchmarks/bench_overhead.py

Every variant runs in turn in one process, so that whatever else the machine does falls on all alike. Printed are the
median over the repetitions of each variant's time and of its ratio to the bare run of the same repetition, the middle
half of those ratios, and the ratio of the quickest times, which a busy machine disturbs least. On Linux it starts
itself again with OpenBLAS if it finds it, and says so.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx

from mlx_patch import HookedModel
from mlx_patch.testing import smollm2_folder

OPENBLAS = Path("/usr/lib/x86_64-linux-gnu/openblas-pthread/libopenblas.so.0")
TARGETS = {"run": 1.02, "resid_post": 1.05}


def variants(model: HookedModel, tokens: mx.array) -> dict[str, Callable[[], object]]:
    """What is timed, by name; `bare` first."""
    return {
        "bare": lambda: mx.eval(model.model(tokens)),
        "run": lambda: model.run(tokens),
        "resid_post": lambda: model.run_with_cache(tokens, "resid_post"),
        "pattern": lambda: model.run_with_cache(tokens, "pattern"),
        "every site": lambda: model.run_with_cache(tokens, model.sites),
    }


def seconds(model: HookedModel, tokens: mx.array, repetitions: int) -> dict[str, list[float]]:
    """The time of each variant in each repetition, the variants in turn."""
    timed = variants(model, tokens)
    for run in timed.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in timed}
    order = list(timed)
    for i in range(repetitions):
        for name in order if i % 2 else reversed(order):
            start = time.perf_counter()
            timed[name]()
            taken[name].append(time.perf_counter() - start)
    return taken


def table(taken: dict[str, list[float]]) -> str:
    """Medians, ratios to the bare run and their middle half, and the targets."""
    lines = [f"{'':<12}{'median':>10}{'ratio':>9}{'middle half':>18}{'quickest':>20}{'target':>9}"]
    for name, times in taken.items():
        ratios = [one / bare for one, bare in zip(times, taken["bare"], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        target = f"<= {TARGETS[name]}" if name in TARGETS else ""
        middle = f"{low:.3f} to {high:.3f}"
        median, ratio = 1e3 * statistics.median(times), statistics.median(ratios)
        quickest = f"{1e3 * min(times):.1f} ms {min(times) / min(taken['bare']):.3f}"
        lines.append(f"{name:<12}{median:>7.1f} ms{ratio:>9.3f}{middle:>18}{quickest:>20}{target:>9}".rstrip())
    return "\n".join(lines)


def with_openblas() -> None:
    """Start this script again with OpenBLAS in the reference BLAS's place, where there is one."""
    if OPENBLAS.exists() and str(OPENBLAS) not in os.environ.get("LD_PRELOAD", ""):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "LD_PRELOAD": str(OPENBLAS)})


def main(repetitions: int = 40) -> None:
    """Print the table for SmolLM2."""
    with_openblas()
    print(f"BLAS: {os.environ.get('LD_PRELOAD') or 'the one that mlx came with'}")
    model = HookedModel.load(smollm2_folder())
    tokens = model.tokenize("When John and Mary went to the shops, John gave a bottle of milk to")
    print(f"{model!r}, {tokens.shape[1]} tokens, {repetitions} repetitions")
    print(table(seconds(model, tokens, repetitions)))


if __name__ == "__main__":
    main()
