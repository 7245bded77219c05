"""What `mp.attribute` costs beside one forward pass of the bare model, on SmolLM2 in float32 with 16 tokens.

    python tests/benchmarks/bench_attribution.py            # some minutes
    python tests/benchmarks/bench_attribution.py --neurons  # all 46,080 neurons as well
    python tests/benchmarks/bench_attribution.py --long     # 256 tokens in place of 16: the prompt over and over

The cells are 240 places: eight sites at each of 30 layers. Every variant runs in turn in one process, so that whatever
else the machine does falls on all alike. Printed are each variant's median time, the median of its ratio to the bare
run of the same repetition, the ratio of the quickest times, and the peak of memory: with the weights, and above what
was there before, both with their ratios to the bare run's. The source's activations are captured before. `logits_at=-1`
is a bare run that unembeds one position, as those of `attribute` do. With `memory=1`, gradients are taken layer by
layer. On Linux it starts itself again with
OpenBLAS if it finds it, unless `PLAIN_BLAS=1` is set.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

import mlx_patch as mp
from mlx_patch.testing import smollm2_folder

CLEAN = "When John and Mary went to the shops, John gave a bottle of milk to"
CORRUPTED = "When John and Mary went to the shops, Mary gave a bottle of milk to"
SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "q", "k", "z")


IN_LONG = ("bare", "logits_at", "gradient")
"""What is timed with a long prompt as well: how its name begins."""


@dataclass
class Cost:
    """What a variant took in each repetition.

    Attributes:
        seconds: The times.
        peak: The largest peak of memory, in bytes, with the weights.
        at_rest: What was in memory before.
    """

    seconds: list[float] = field(default_factory=list)
    peak: int = 0
    at_rest: int = 0

    @property
    def above(self) -> int:
        """The peak above what was in memory before, in bytes."""
        return self.peak - self.at_rest

    def measure(self, run: Callable[[], object]) -> None:
        """Run once more."""
        mx.clear_cache()
        mx.reset_peak_memory()
        self.at_rest = mx.get_active_memory()
        start = time.perf_counter()
        run()
        self.seconds.append(time.perf_counter() - start)
        self.peak = max(self.peak, mx.get_peak_memory())


def variants(
    model: mp.HookedModel,
    source: mx.array,
    host: mx.array,
    sites: Sequence[str],
    metric: mp.metrics.Metric,
    confirm: int = 50,
    steps: int = 8,
    neurons: bool = False,
) -> dict[str, Callable[[], object]]:
    """What is timed, by name; `bare` first."""
    _, cache = model.run_with_cache(source, sites=tuple(sites))
    ask: dict[str, Any] = {"at": sites, "over": ("site", "layer"), "metric": metric, "progress": False}
    replace = mp.Replace(cache)
    timed: dict[str, Callable[[], object]] = {
        "bare": lambda: mx.eval(model.model(host)),
        "logits_at=-1": lambda: model.run(host, logits_at=-1),
        "gradient": lambda: mp.attribute(model, host, replace, **ask),
        "gradient, memory=1": lambda: mp.attribute(model, host, replace, memory=1, **ask),
        f"confirm={confirm}": lambda: mp.attribute(model, host, replace, confirm=confirm, **ask),
        f"integrated, {steps} steps": lambda: mp.attribute(
            model, host, replace, method="integrated", steps=steps, **ask
        ),
        "the same, memory=1": lambda: mp.attribute(
            model, host, replace, method="integrated", steps=steps, memory=1, **ask
        ),
    }
    if neurons:
        _, inside = model.run_with_cache(source, sites="mlp_post")
        each = {"at": "mlp_post", "over": ("layer", "neuron"), "positions": -1, "metric": metric}
        timed["every neuron"] = lambda: mp.attribute(model, host, mp.Replace(inside), **each)
    return timed


def costs(timed: dict[str, Callable[[], object]], repetitions: int) -> dict[str, Cost]:
    """The cost of each variant in each repetition, the variants in turn, after one run of each."""
    taken = {name: Cost() for name in timed}
    for run in timed.values():
        run()
    for _ in range(repetitions):
        for name, run in timed.items():
            taken[name].measure(run)
    return taken


def table(taken: dict[str, Cost]) -> str:
    """Medians, ratios to the bare run, and memory."""
    bare = taken["bare"]
    lines = [f"{'':<22}{'median':>10}{'ratio':>8}{'quickest':>11}{'peak':>10}{'ratio':>8}{'above':>12}{'ratio':>8}"]
    for name, cost in taken.items():
        ratio = statistics.median(one / other for one, other in zip(cost.seconds, bare.seconds, strict=True))
        quickest = min(cost.seconds) / min(bare.seconds)
        lines.append(
            f"{name:<22}{statistics.median(cost.seconds):>8.2f} s{ratio:>8.1f}{quickest:>11.1f}"
            f"{cost.peak / 2**20:>6.0f} MiB{cost.peak / bare.peak:>8.2f}"
            f"{cost.above / 2**20:>8.1f} MiB{cost.above / bare.above:>8.1f}"
        )
    return "\n".join(lines)


def main(*arguments: str) -> None:
    """Print the table for SmolLM2."""
    if not os.environ.get("PLAIN_BLAS"):
        from bench_overhead import with_openblas

        with_openblas()
    print(f"BLAS: {os.environ.get('LD_PRELOAD') or 'the one that mlx came with'}")
    model = mp.HookedModel.load(smollm2_folder("float32"))
    source, host = model.tokenize(CLEAN), model.tokenize(CORRUPTED)
    if "--long" in arguments:
        source, host = (mx.tile(tokens, (1, 16)) for tokens in (source, host))
    metric = mp.metrics.LogitDiff(" Mary", " John").resolve(model.tokenizer)
    repetitions = 5
    print(f"{model!r}, {host.shape[1]} tokens, {len(SITES) * model.n_layers} cells, {repetitions} repetitions")
    timed = variants(model, source, host, SITES, metric, neurons="--neurons" in arguments)
    if "--long" in arguments:
        timed = {name: run for name, run in timed.items() if name.startswith(IN_LONG)}
    print(table(costs(timed, repetitions)))


if __name__ == "__main__":
    main(*sys.argv[1:])
