"""What sweeps cost beside the loop of the script that the D1 study comes from, on SmolLM2 in float32.

    python tests/benchmarks/bench_sweeps.py

Both run in one process, in turn: some cells of the loop, the sweep, the same cells again. The loop's time a cell is the
median of those, and its time for a sweep is that times the cells, since it computes the same for each; what the cells
gave is compared with the sweep. On Linux the script starts itself again with OpenBLAS if it finds it, and says so.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx.core as mx

import mlx_patch as mp
from mlx_patch.testing import smollm2_folder

HERE = Path(__file__).parent
IOI = "When John and Mary went to the shops, John gave a bottle of milk to"
OTHER = "When Mary and John went to the shops, Mary gave a bottle of milk to"
LATER = "When John and Mary went to the shops, Mary gave a bottle of milk to"


@dataclass(frozen=True)
class Case:
    """A sweep, and one cell of it in the seed's own way.

    Attributes:
        name: What is swept.
        target: How many times faster than the loop it must be.
        run: The sweep.
        cells: Some cells: where they are in the result's values, and how the loop computes their logits.
        n: How many cells the sweep has.
        metric: What is measured.
    """

    name: str
    target: float
    run: Callable[[], mp.SweepResult]
    cells: Sequence[tuple[tuple[int, ...], Callable[[], mx.array]]]
    n: int
    metric: mp.metrics.Metric


def loaded(path: Path, name: str) -> ModuleType:
    """A module that is in no package."""
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.setdefault(name, module_from_spec(spec))
    spec.loader.exec_module(module)
    return module


def patched(model: Any, tokens: mx.array, mask: mx.array, layer: int, edit: Callable[[mx.array], mx.array]) -> mx.array:
    """The seed's loop with any edit of the stream after a layer."""
    h = model.model.embed_tokens(tokens)
    for i, block in enumerate(model.model.layers):
        h = block(h, mask=mask)
        h = edit(h) if i == layer else h
        mx.eval(h)
    return SEED.unembedded(model, h)


SEED = loaded(HERE.parent / "real" / "seed_loop.py", "seed_loop")


def at(donor: mx.array, pos: int) -> Callable[[mx.array], mx.array]:
    """An edit of the stream that puts the donor's in at one position."""

    def edit(h: mx.array) -> mx.array:
        new = mx.array(h)
        new[:, pos] = donor[:, pos]
        return new

    return edit


def with_head(model: Any, tokens: mx.array, mask: mx.array, layer: int, head: int, donor: mx.array) -> mx.array:
    """The seed's loop with one head's `z` at the last position the donor's."""
    h = model.model.embed_tokens(tokens)
    hooked = mp.HookedModel(model)
    edit = mp.Replace(donor[:, -1:, head : head + 1]).at("z", layer=layer, pos=tokens.shape[1] - 1, head=head)
    with hooked.editing(edit):
        del h
        logits = model(tokens)
        mx.eval(logits)
    return logits


def cases(model: mp.HookedModel, tokens: mx.array, layers: int) -> list[Case]:
    """The sweeps."""
    raw, mask = model.model, SEED.causal_mask(tokens.shape[1])
    metric = mp.metrics.LogProb(0)
    difference = mp.metrics.LogitDiff(" Mary", " John").resolve(model.tokenizer)
    donor_tokens = mx.concatenate([tokens[:, :1], tokens[:, :0:-1]], axis=1)
    _, donor = model.run_with_cache(donor_tokens, sites=("resid_post",), logits_at=-1)
    _, heads = model.run_with_cache(donor_tokens, sites=("z",), pos=-1, logits_at=-1)
    short, other, later = map(model.tokenize, (IOI, OTHER, LATER))
    _, short_donor = model.run_with_cache(other, sites=("resid_post",))
    _, later_donor = model.run_with_cache(later, sites=("resid_post",))
    short_mask = SEED.causal_mask(short.shape[1])
    n_heads, few = heads["z", 0].shape[2], sorted({0, layers // 2, layers - 1})
    replace = mp.Replace(donor)

    def whole(layer: int) -> Callable[[], mx.array]:
        return lambda: patched(raw, tokens, mask, layer, lambda h: donor["resid_post", layer])

    def last(layer: int) -> Callable[[], mx.array]:
        return lambda: patched(raw, tokens, mask, layer, at(donor["resid_post", layer], tokens.shape[1] - 1))

    def cell(donor: mp.ActivationCache, layer: int, pos: int) -> Callable[[], mx.array]:
        return lambda: patched(raw, short, short_mask, layer, at(donor["resid_post", layer], pos))

    def grid(name: str, target: float, donor: mp.ActivationCache, positions: tuple[int, ...]) -> Case:
        return Case(
            name,
            target,
            lambda: mp.sweep(
                model, short, mp.Replace(donor), at="resid_post", over=("layer", "pos"), metric=difference
            ),
            [((layer, pos), cell(donor, layer, pos)) for layer in few for pos in positions],
            layers * short.shape[1],
            difference,
        )

    def head(layer: int, number: int) -> Callable[[], mx.array]:
        return lambda: with_head(raw, tokens, mask, layer, number, heads["z", layer])

    return [
        Case(
            "all layers, last position",
            25,
            lambda: mp.sweep(model, tokens, replace, at="resid_post", over="layer", positions=-1, metric=metric),
            [((layer,), last(layer)) for layer in few],
            layers,
            metric,
        ),
        Case(
            "all layers, whole sequence",
            2.1,
            lambda: mp.sweep(model, tokens, replace, at="resid_post", over="layer", metric=metric),
            [((layer,), whole(layer)) for layer in few],
            layers,
            metric,
        ),
        grid("layers x positions", 6.5, short_donor, (0, 7, 15)),
        grid("layers x positions, alike to 9", 25, later_donor, (0, 9, 15)),
        Case(
            "layers x heads of z, last position",
            100,
            lambda: mp.sweep(
                model, tokens, mp.Replace(heads), at="z", over=("layer", "head"), positions=-1, metric=metric
            ),
            [((layer, 1), head(layer, 1)) for layer in few],
            layers * n_heads,
            metric,
        ),
    ]


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """The seconds that a call takes, and what it returns."""
    start = time.perf_counter()
    returned = call()
    return time.perf_counter() - start, returned


def main(only: str = "") -> None:
    """Print how many times faster than the loop each sweep is, and how far its numbers are from the loop's."""
    loaded(HERE / "bench_overhead.py", "bench_overhead").with_openblas()
    model = mp.HookedModel.load(smollm2_folder("float32"))
    d1 = loaded(HERE.parents[1] / "examples" / "d1_data.py", "d1_data")
    tokens = model.tokenize(d1.build_conversation())
    print(f"{model!r}, D1 prompt of {tokens.shape[1]} tokens")
    for case in cases(model, tokens, model.n_layers):
        if only not in case.name:
            continue
        taken, apart = [timed(loop)[0] for _, loop in case.cells], 0.0
        mx.reset_peak_memory()
        seconds, result = timed(case.run)
        peak = mx.get_peak_memory() / 2**20
        for where, loop in case.cells:
            again, logits = timed(loop)
            taken.append(again)
            apart = max(apart, abs(case.metric(logits).item() - result.values[where].item()))
        each = statistics.median(taken)
        print(
            f"{case.name:<36} {case.n:>4} cells {seconds:7.2f} s, the loop {each * case.n:8.1f} s: "
            f"{each * case.n / seconds:6.1f} times (target {case.target}), apart {apart:.1e}, peak {peak:.0f} MiB, "
            f"token-layers {result.provenance['token_layers']:,} of {result.plan.minimum:,}",
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
