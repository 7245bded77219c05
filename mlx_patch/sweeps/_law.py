"""Law 8: a fast sweep equals the reference sweep, at the cost that its plan names.

It goes by what `sweep` and `plan` show, so that it holds for whatever is put in place of their insides.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from typing_extensions import override

from mlx_patch.errors import ArchitectureError
from mlx_patch.execution.plan import pieces_of
from mlx_patch.laws import Bench, Finding
from mlx_patch.metrics import RowMetric
from mlx_patch.results import SweepResult
from mlx_patch.sweeps._law_cells import (
    LawCell,
    at_raw_paths,
    behind_the_last_block,
    by_head,
    by_layer,
    by_position,
    everywhere,
)
from mlx_patch.sweeps._sweep import plan, sweep

_PIECE = 5
"""Positions of a piece, where law 8 cuts a prompt as sweeps cut long ones."""

_CLOSE = 1e-5
"""What a sweep in float32 may differ by, as a fraction of the largest number that it measures."""


@dataclass(frozen=True, repr=False)
class LawMetric(RowMetric):
    """The logits at one position on a fixed direction that has something of every token."""

    @override
    def measure_row(self, row: mx.array) -> mx.array:
        direction = mx.cos(mx.arange(row.shape[-1]) * 2.4)
        return mx.where(mx.isinf(row), 0, row) @ direction


@dataclass(frozen=True)
class Measured:
    """The metrics of some cells, and of the unedited run.

    Attributes:
        values: Shape `(cell, metric, example)`.
        baseline: Shape `(metric, example)`.
    """

    values: np.ndarray
    baseline: np.ndarray


@dataclass(frozen=True)
class _Sweep:
    """Cells that are run in one sweep, and the positions whose logits are measured."""

    over: str
    cells: tuple[LawCell, ...]
    reads: tuple[int, ...]

    def run(self, bench: Bench, executor: str, memory: int | None = None) -> SweepResult:
        """The result of a sweep of them."""
        return sweep(**self.arguments(bench), executor=executor, progress=False, memory=memory)

    def arguments(self, bench: Bench) -> dict[str, Any]:
        """What `sweep` and `plan` take."""
        return {
            "model": bench.model,
            "tokens": bench.tokens,
            "over": [list(cell.edits) for cell in self.cells],
            "metric": [LawMetric(pos=pos) for pos in self.reads],
        }


def exact_sweeps(bench: Bench) -> Iterator[Finding]:
    """Law 8."""
    last = bench.tokens.shape[1] - 1
    yield from _compared(bench, _Sweep("layer", tuple(by_layer(bench)), (bench.middle, last)))
    yield from _compared(bench, _Sweep("layer and pos", tuple(by_position(bench)), (last,)))
    if heads := tuple(by_head(bench)):
        yield from _compared(bench, _Sweep("layer and head", heads, (last,)))
    for over, cells in (("site", everywhere), ("raw path", at_raw_paths), ("final site", behind_the_last_block)):
        if every := tuple(cells(bench)):
            yield from _against_plain_runs(bench, _Sweep(over, every, (last,)))


def _compared(bench: Bench, one: _Sweep) -> Iterator[Finding]:
    reference, rows = one.run(bench, "reference"), one.run(bench, "rows")
    cheapest = one.run(bench, "auto", memory=rows.plan.memory // 2)
    yield from _grounds(bench, one, reference)
    yield from equal(bench, one.over, "rows", one.cells, rows, reference)
    yield Finding(8, f"by {one.over}, rows, cost", _too_much(bench, one, rows), 0.0)
    how = f"{cheapest.plan.executor} in smaller passes"
    yield from equal(bench, one.over, how, one.cells, cheapest, reference)
    yield Finding(8, f"by {one.over}, {how}, cost", _too_much(bench, one, cheapest), 0.0)
    if cheapest.plan.executor != "grow":
        yield Finding(8, f"by {one.over}, grow is refused", float(not _refused(one.arguments(bench))), 0.0)


def _against_plain_runs(bench: Bench, one: _Sweep) -> Iterator[Finding]:
    """Plain runs share nothing with sweeps: what reads several positions or keys reads all of them there."""
    plain = plain_runs(bench, one.cells, one.reads)
    cheapest = one.run(bench, "auto")
    yield from equal(bench, one.over, cheapest.plan.executor, one.cells, cheapest, plain)
    with pieces_of(min(_PIECE, bench.middle)):
        yield from equal(bench, one.over, "rows in pieces", one.cells, one.run(bench, "rows"), plain)


def plain_runs(bench: Bench, cells: tuple[LawCell, ...], reads: tuple[int, ...]) -> Measured:
    """What a plain run a cell gives."""
    return Measured(np.stack([read(bench.run(*cell.edits), reads) for cell in cells]), read(bench.plain, reads))


def read(logits: mx.array, reads: tuple[int, ...]) -> np.ndarray:
    """The metric at some positions. Shape `(metric, example)`."""
    return np.stack([np.array(LawMetric(pos=pos)(logits)) for pos in reads])


def _refused(arguments: dict[str, Any]) -> bool:
    try:
        plan(**arguments, executor="grow")
    except ArchitectureError:
        return True
    return False


def _grounds(bench: Bench, one: _Sweep, reference: SweepResult) -> Iterator[Finding]:
    """What the comparison stands on: what is measured is of the model's own logits, and patches reach it."""
    own = read(bench.plain, one.reads)
    deviation = _apart(reference.baseline, own, float(np.abs(own).max()))
    yield Finding(8, f"by {one.over}, what is measured", deviation, sweep_tolerance(bench))
    last = max(one.reads)
    same = (reference.values == reference.baseline).reshape(len(one.cells), -1).all(axis=1)
    blind = [cell for cell, is_same in zip(one.cells, same, strict=True) if is_same and cell.pos in (None, last)]
    yield Finding(8, f"by {one.over}, patches show", float(len(blind)), 0.0)


def sweep_tolerance(bench: Bench) -> float:
    """Blocks reorder their sums one on top of the other; with more than a quarter nothing would be checked."""
    return max(_CLOSE, min(bench.model.n_layers * bench.scale.close, 0.25))


def equal(
    bench: Bench,
    over: str,
    how: str,
    cells: tuple[LawCell, ...],
    fast: SweepResult,
    wanted: Measured | SweepResult,
    law: int = 8,
) -> Iterator[Finding]:
    """A finding for the unedited run, and one for each site: that the numbers are those that are wanted."""
    values, baseline = fast.values.reshape(wanted.values.shape), fast.baseline.reshape(wanted.baseline.shape)
    size = max(float(np.abs(array).max()) for array in (wanted.values, wanted.baseline))
    what, tolerance = f"by {over}, {how}", sweep_tolerance(bench)
    yield Finding(law, f"{what}, unedited", _apart(baseline, wanted.baseline, size), tolerance)
    for name in dict.fromkeys(cell.name for cell in cells):
        own = [i for i, cell in enumerate(cells) if cell.name == name]
        yield Finding(law, f"{what}, {name}", _apart(values[own], wanted.values[own], size), tolerance)


def _apart(got: np.ndarray, wanted: np.ndarray, size: float) -> float:
    """The largest difference, as a fraction; infinite where something is no number."""
    apart = float(np.abs(got - wanted).max()) / max(size, 1e-30)
    return apart if np.isfinite(apart) else float("inf")


def _too_much(bench: Bench, one: _Sweep, fast: SweepResult) -> float:
    """How far the token-layers that went through the blocks are from what the plan says, and from the least."""
    (batch, length), layers = bench.tokens.shape, bench.model.n_layers
    family, grows = bench.model.layout.family, fast.plan.executor == "grow"
    whole = bool(family.uncut) or family.final_norm is None
    first = [0 if whole else min(cell.pos or 0, *one.reads) for cell in one.cells]
    blocks = [layers - cell.entry if grows else layers for cell in one.cells]
    least = batch * (length * layers + sum((length - a) * b for a, b in zip(first, blocks, strict=True)))
    counts = (fast.provenance["token_layers"], fast.plan.token_layers, *([fast.plan.minimum] if grows else []))
    return max(abs(count - least) / least for count in counts)
