"""What lenses cost beside the arithmetic that they cannot do without, on SmolLM2 in float32 with 16 tokens.

    python tests/benchmarks/bench_lenses.py

A lens over 30 layers and 16 positions must multiply 480 streams with the unembedding: that product is timed in the same
process, in turn with the lens. `direct_logits` is timed beside a plain forward pass of the same prompt. Printed are the
median of each variant's time, the median of its ratio to what stands beside it in the same repetition, the ratio of the
quickest times, which a busy machine disturbs least, and the target. On Linux it starts itself again with OpenBLAS if it
finds it, and says so.
"""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import mlx.core as mx

import mlx_patch as mp
from mlx_patch.testing import smollm2_folder

PROMPT = "When John and Mary went to the shops, John gave a bottle of milk to"
ARITHMETIC, FORWARD = "the product with the unembedding", "a plain forward pass"


@dataclass
class Cost:
    """What a variant took.

    Attributes:
        run: The variant.
        beside: The name of what it is compared with.
        target: What its ratio must not exceed; 0 where there is no target.
        seconds: The time of each repetition.
    """

    run: Callable[[], object]
    beside: str
    target: float = 0
    seconds: list[float] = field(default_factory=list)


def variants(model: mp.HookedModel, tokens: mx.array, answer: int, foil: int) -> dict[str, Cost]:
    """What is timed, by name; what others are compared with comes first."""
    lens = mp.lens.logit_lens(model, tokens)
    weight = model.directions(list(range(model.d_vocab)))
    streams = mx.concatenate([stream.reshape(-1, model.d_model) for stream in lens.streams.values()])
    mx.eval(weight, streams)

    def apart(kind: str) -> Callable[[], object]:
        return lambda: mp.lens.direct_logits(model, tokens, answer, foil, by=kind)

    return {
        ARITHMETIC: Cost(lambda: mx.eval(streams @ weight.T), ARITHMETIC),
        "top(1)": Cost(lambda: lens.top(1), ARITHMETIC, 1.5),
        "top(5)": Cost(lambda: lens.top(5), ARITHMETIC, 1.5),
        "prob": Cost(lambda: lens.prob(answer), ARITHMETIC, 1.5),
        "rank": Cost(lambda: lens.rank(answer), ARITHMETIC, 1.5),
        "kl": Cost(lens.kl, ARITHMETIC),
        FORWARD: Cost(lambda: mx.eval(model.model(tokens)), FORWARD),
        "logit_lens": Cost(lambda: mp.lens.logit_lens(model, tokens), FORWARD),
        "direct_logits by part": Cost(apart("part"), FORWARD),
        "direct_logits by head": Cost(apart("head"), FORWARD, 2),
        "direct_logits by source": Cost(apart("source"), FORWARD),
    }


def measure(costs: dict[str, Cost], repetitions: int) -> None:
    """Time each variant in each repetition, the variants in turn, after one run of each."""
    for cost in costs.values():
        cost.run()
    for _ in range(repetitions):
        for cost in costs.values():
            start = time.perf_counter()
            cost.run()
            cost.seconds.append(time.perf_counter() - start)


def table(costs: dict[str, Cost]) -> str:
    """Medians, ratios to what stands beside, and targets."""
    lines = [f"{'':<34}{'median':>10}{'ratio':>8}{'quickest':>10}{'target':>9}"]
    for name, cost in costs.items():
        beside = costs[cost.beside].seconds
        ratio = statistics.median(own / other for own, other in zip(cost.seconds, beside, strict=True))
        quickest = min(cost.seconds) / min(beside)
        target = f"<= {cost.target}" if cost.target else ""
        median = statistics.median(cost.seconds)
        lines.append(f"{name:<34}{median:>8.3f} s{ratio:>8.2f}{quickest:>10.2f}{target:>9}".rstrip())
    return "\n".join(lines)


def main(repetitions: int = 15) -> None:
    """Print the table for SmolLM2."""
    from bench_overhead import with_openblas

    with_openblas()
    print(f"BLAS: {os.environ.get('LD_PRELOAD') or 'the one that mlx came with'}")
    model = mp.HookedModel.load(smollm2_folder("float32"))
    tokens = model.tokenize(PROMPT)
    answer, foil = (model.tokenize(name).item() for name in (" Mary", " John"))
    print(f"{model!r}, {model.n_layers} layers, {tokens.shape[1]} tokens, {repetitions} repetitions")
    costs = variants(model, tokens, answer, foil)
    measure(costs, repetitions)
    print(table(costs))


if __name__ == "__main__":
    main()
