"""What path patching costs beside one forward pass of the bare model, on SmolLM2 in float32 with 16 tokens.

    python tests/benchmarks/bench_paths.py

Four kinds of sweeps: every head of `z` direct to the logits, at all positions, under both freezes; all earlier heads
into the queries of one head; as many cells at these queries; every head with all its ways. Every variant runs in turn
in one process, so that whatever else the machine does falls on all alike. Printed are each variant's median time, the
median of its ratio to the bare run of the same repetition, and the ratio of the quickest times. The source's
activations are captured before.

Beside them stands brute force on mlx_lm's own modules, `tests/helpers/paths_by_hand.py`: two runs for a path to the
logits, three for a path into a head. A few paths are timed, and their numbers compared with the sweep's. On Linux the
script starts itself again with OpenBLAS if it finds it, unless `PLAIN_BLAS=1` is set.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

import mlx_patch as mp
from mlx_patch.testing import smollm2_folder

sys.path.append(str(Path(__file__).parents[1] / "helpers"))

CLEAN = "When John and Mary went to the shops, John gave a bottle of milk to"
CORRUPTED = "When John and Mary went to the shops, Mary gave a bottle of milk to"


def variants(
    model: mp.HookedModel,
    source: mx.array,
    host: mx.array,
    metric: mp.metrics.Metric,
    receiver: mp.Receiver,
) -> dict[str, Callable[[], Any]]:
    """What is timed, by name; `bare` first."""
    _, cache = model.run_with_cache(source, sites=("z", "q"))
    patch = mp.Replace(cache)
    [layer] = receiver.layer
    n_heads = cache["z", 0].shape[2]
    at_queries = []
    for number in range(layer * n_heads):
        part = mp.Interpolate(cache, 1.0 - number / (2 * layer * n_heads))
        at_queries.append(part.at("q", layer=layer, head=receiver.head))
    heads: dict[str, Any] = {"at": "z", "over": ("layer", "head"), "metric": metric, "progress": False}
    logits = {"via": mp.Receiver("logits"), **heads}
    return {
        "bare": lambda: mx.eval(model.model(host)),
        "to logits": lambda: mp.sweep(model, host, patch, **logits),
        "to logits, attention frozen": lambda: mp.sweep(model, host, patch, freeze="attention", **logits),
        "to queries": lambda: mp.sweep(model, host, patch, layers=range(layer), via=receiver, **heads),
        "as many cells at queries": lambda: mp.sweep(model, host, over=at_queries, metric=metric, progress=False),
        "all ways": lambda: mp.sweep(model, host, patch, **heads),
    }


def seconds(timed: dict[str, Callable[[], Any]], repetitions: int) -> dict[str, list[float]]:
    """The time of each variant in each repetition, the variants in turn, after one run of each."""
    taken: dict[str, list[float]] = {name: [] for name in timed}
    for run in timed.values():
        run()
    for _ in range(repetitions):
        for name, run in timed.items():
            start = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - start)
    return taken


def table(taken: dict[str, list[float]]) -> str:
    """Medians, and ratios to the bare run."""
    bare = taken["bare"]
    lines = [f"{'':<30}{'median':>10}{'ratio':>9}{'quickest':>10}"]
    for name, times in taken.items():
        ratio = statistics.median(one / other for one, other in zip(times, bare, strict=True))
        quickest = min(times) / min(bare)
        lines.append(f"{name:<30}{statistics.median(times):>8.3f} s{ratio:>9.2f}{quickest:>10.2f}")
    return "\n".join(lines)


@dataclass(frozen=True)
class Brute:
    """What brute force took for some paths.

    Attributes:
        name: Where the paths end.
        each: The median of the seconds of one path.
        n: The paths of the sweep.
        apart: The largest difference to the sweep, in the metric's unit.
    """

    name: str
    each: float
    n: int
    apart: float

    def line(self) -> str:
        """The time of all paths, in a line of the table."""
        return f"{'brute force ' + self.name:<30}{self.each * self.n:>8.1f} s for {self.n}, apart {self.apart:.1e}"


def brute_force(
    model: mp.HookedModel,
    source: mx.array,
    host: mx.array,
    metric: mp.metrics.Metric,
    receiver: mp.Receiver,
    senders: Sequence[tuple[int, int]],
    results: dict[str, mp.SweepResult],
    names: Any,
) -> list[Brute]:
    """Some paths by hand, to the logits and into the queries of a head, compared with the sweeps of them."""
    from paths_by_hand import ByHand

    by_hand = ByHand(model.model, names, host, source)
    [layer], [head] = receiver.layer, receiver.head

    def to_logits(sender: Any) -> mx.array:
        return by_hand.direct([sender], "all")

    def to_queries(sender: Any) -> mx.array:
        return by_hand.logits(by_hand.through([sender], "q", layer, head, "all"))

    found = []
    for name, run in (("to logits", to_logits), ("to queries", to_queries)):
        taken, apart, values = [], 0.0, results[name].values
        for sender in senders:
            start = time.perf_counter()
            number = metric(run(by_hand.head(*sender))).item()
            taken.append(time.perf_counter() - start)
            apart = max(apart, abs(number - values[sender].item()))
        found.append(Brute(name, statistics.median(taken), values[..., 0].size, apart))
    return found


def main(repetitions: int = 7) -> None:
    """Print the table for SmolLM2."""
    if not os.environ.get("PLAIN_BLAS"):
        from bench_overhead import with_openblas

        with_openblas()
    from paths_by_hand import Names

    print(f"BLAS: {os.environ.get('LD_PRELOAD') or 'the one that mlx came with'}")
    model = mp.HookedModel.load(smollm2_folder("float32"))
    host, source = model.tokenize(CLEAN), model.tokenize(CORRUPTED)
    metric = mp.metrics.LogitDiff(" Mary", " John").resolve(model.tokenizer)
    receiver = mp.Receiver("q", layer=20, head=3)
    print(f"{model!r}, {host.shape[1]} tokens, the queries {receiver}, {repetitions} repetitions")
    timed = variants(model, source, host, metric, receiver)
    print(table(seconds(timed, repetitions)))
    results = {name: timed[name]() for name in ("to logits", "to queries")}
    senders = [(0, 0), (9, 4), (13, 7), (19, 8)]
    names = Names(n_heads=9, n_kv_heads=3)
    for brute in brute_force(model, source, host, metric, receiver, senders, results, names):
        print(brute.line())


if __name__ == "__main__":
    main()
