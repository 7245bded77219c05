"""Law 8: a fast sweep equals the reference sweep, at the cost that its plan names.

It uses only `sweep` and `plan`, so that it can check any other implementation of them.
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
    """The metrics of some cells, and of the unpatched run.

    Attributes:
        values: Shape `(cell, metric, example)`.
        baseline: Shape `(metric, example)`.
    """

    values: np.ndarray
    baseline: np.ndarray


@dataclass(frozen=True)
class _Sweep:
    """Cells that run in one sweep, and the positions whose logits are measured."""

    over: str
    cells: tuple[LawCell, ...]
    reads: tuple[int, ...]

    def run(self, bench: Bench, executor: str, memory: int | None = None) -> SweepResult:
        """The result of the sweep."""
        return sweep(**self.arguments(bench), executor=executor, progress=False, memory=memory)

    def arguments(self, bench: Bench) -> dict[str, Any]:
        """The arguments of `sweep` and `plan`."""
        return {
            "model": bench.model,
            "tokens": bench.tokens,
            "over": [list(cell.edits) for cell in self.cells],
            "metric": [LawMetric(pos=pos) for pos in self.reads],
        }


def exact_sweeps(bench: Bench) -> Iterator[Finding]:
    """Law 8."""
    last = bench.tokens.shape[1] - 1
    yield from _against_reference(bench, _Sweep("layer", tuple(by_layer(bench)), (bench.middle, last)))
    yield from _against_reference(bench, _Sweep("layer and pos", tuple(by_position(bench)), (last,)))
    head_cells = tuple(by_head(bench))
    if head_cells:
        yield from _against_reference(bench, _Sweep("layer and head", head_cells, (last,)))
    for over, cells_at in (("site", everywhere), ("raw path", at_raw_paths), ("final site", behind_the_last_block)):
        cells = tuple(cells_at(bench))
        if cells:
            yield from _against_plain_runs(bench, _Sweep(over, cells, (last,)))


def _against_reference(bench: Bench, law_sweep: _Sweep) -> Iterator[Finding]:
    """Findings of the executors "rows" and "auto" against the reference."""
    over = law_sweep.over
    reference = law_sweep.run(bench, "reference")
    rows = law_sweep.run(bench, "rows")
    cheapest = law_sweep.run(bench, "auto", memory=rows.plan.memory // 2)
    yield from _check_reference(bench, law_sweep, reference)
    yield from equal(bench, over, "rows", law_sweep.cells, rows, reference)
    yield Finding(8, f"by {over}, rows, cost", _cost_deviation(bench, law_sweep, rows), 0.0)
    executor = f"{cheapest.plan.executor} in smaller passes"
    yield from equal(bench, over, executor, law_sweep.cells, cheapest, reference)
    yield Finding(8, f"by {over}, {executor}, cost", _cost_deviation(bench, law_sweep, cheapest), 0.0)
    if cheapest.plan.executor != "grow":
        is_refused = _is_refused(law_sweep.arguments(bench))
        yield Finding(8, f"by {over}, grow is refused", float(not is_refused), 0.0)


def _against_plain_runs(bench: Bench, law_sweep: _Sweep) -> Iterator[Finding]:
    """Plain runs share nothing with sweeps: what reads several positions or keys reads all of them there."""
    plain = plain_runs(bench, law_sweep.cells, law_sweep.reads)
    cheapest = law_sweep.run(bench, "auto")
    yield from equal(bench, law_sweep.over, cheapest.plan.executor, law_sweep.cells, cheapest, plain)
    with pieces_of(min(_PIECE, bench.middle)):
        rows = law_sweep.run(bench, "rows")
        yield from equal(bench, law_sweep.over, "rows in pieces", law_sweep.cells, rows, plain)


def plain_runs(bench: Bench, cells: tuple[LawCell, ...], reads: tuple[int, ...]) -> Measured:
    """The metrics of one plain run per cell."""
    values = np.stack([read(bench.run(*cell.edits), reads) for cell in cells])
    return Measured(values, read(bench.plain, reads))


def read(logits: mx.array, reads: tuple[int, ...]) -> np.ndarray:
    """The metric at some positions. Shape `(metric, example)`."""
    return np.stack([np.array(LawMetric(pos=pos)(logits)) for pos in reads])


def _is_refused(arguments: dict[str, Any]) -> bool:
    try:
        plan(**arguments, executor="grow")
    except ArchitectureError:
        return True
    return False


def _check_reference(bench: Bench, law_sweep: _Sweep, reference: SweepResult) -> Iterator[Finding]:
    """Findings on which the comparison rests: metrics read the model's own logits, and patches reach the metrics."""
    over = law_sweep.over
    baseline = read(bench.plain, law_sweep.reads)
    deviation = _deviation(reference.baseline, baseline, _size(bench, baseline))
    yield Finding(8, f"by {over}, what is measured", deviation, sweep_tolerance(bench))
    last = max(law_sweep.reads)
    is_unchanged = (reference.values == reference.baseline).reshape(len(law_sweep.cells), -1).all(axis=1)
    n_without_effect = 0
    for cell, unchanged in zip(law_sweep.cells, is_unchanged, strict=True):
        if unchanged and cell.pos in (None, last):
            n_without_effect += 1
    yield Finding(8, f"by {over}, patches show", float(n_without_effect), 0.0)


def sweep_tolerance(bench: Bench) -> float:
    """The tolerance of a sweep's numbers, as a fraction of the largest."""
    # Every block sums in another order, and rounding adds up over blocks; some models amplify it, as their own logits
    # in a batch show. With more than a quarter nothing would be checked.
    over_blocks = min(bench.model.n_layers * bench.scale.close, 0.25)
    return max(_CLOSE, over_blocks, bench.scale.beside(bench.moved_by_batch))


def equal(
    bench: Bench,
    over: str,
    executor: str,
    cells: tuple[LawCell, ...],
    result: SweepResult,
    expected: Measured | SweepResult,
    law: int = 8,
) -> Iterator[Finding]:
    """A finding for the unpatched run, and one for each site: that the numbers are the expected ones."""
    values = result.values.reshape(expected.values.shape)
    baseline = result.baseline.reshape(expected.baseline.shape)
    size = _size(bench, expected.values, expected.baseline)
    tolerance = sweep_tolerance(bench)
    deviation = _deviation(baseline, expected.baseline, size)
    yield Finding(law, f"by {over}, {executor}, unpatched", deviation, tolerance)
    for name in dict.fromkeys(cell.name for cell in cells):
        indices = [index for index, cell in enumerate(cells) if cell.name == name]
        deviation = _deviation(values[indices], expected.values[indices], size)
        yield Finding(law, f"by {over}, {executor}, {name}", deviation, tolerance)


def _size(bench: Bench, *measured: np.ndarray) -> float:
    """The largest of some numbers, or what the metric would be of such logits if its terms did not cancel.

    Rounding is a fraction of the terms: where they cancel, it is a large fraction of their sum. The square root of the
    sum of the squares of cosines is that of half their number, so the metric is about the length of a row of logits
    over the square root of 2.
    """
    logits = mx.where(mx.isinf(bench.plain), 0, bench.plain).astype(mx.float32)
    of_logits = float(np.array(mx.linalg.norm(logits, axis=-1)).mean()) / 2**0.5
    return max(of_logits, *(float(np.abs(array).max()) for array in measured))


def _deviation(values: np.ndarray, expected: np.ndarray, size: float) -> float:
    """The largest difference, as a fraction of `size`; infinite where a value is not a number."""
    deviation = float(np.abs(values - expected).max()) / max(size, 1e-30)
    if not np.isfinite(deviation):
        return float("inf")
    return deviation


def _cost_deviation(bench: Bench, law_sweep: _Sweep, result: SweepResult) -> float:
    """How far the token-layers of a sweep, and those that its plan names, are from the expected number."""
    expected = _expected_cost(bench, law_sweep, result.plan.executor)
    counts = [result.provenance["token_layers"], result.plan.token_layers]
    if result.plan.executor == "grow":
        counts.append(result.plan.minimum)
    return max(abs(count - expected) / expected for count in counts)


def _expected_cost(bench: Bench, law_sweep: _Sweep, executor: str) -> int:
    """The token-layers of the unpatched run, and of each cell from its first position and block on."""
    batch, length = bench.tokens.shape
    n_layers = bench.model.n_layers
    family = bench.model.layout.family
    can_start_later = not family.uncut and family.final_norm is not None
    token_layers = length * n_layers
    for cell in law_sweep.cells:
        n_positions = length
        if can_start_later:
            n_positions = length - min(cell.pos or 0, *law_sweep.reads)
        n_blocks = n_layers
        if executor == "grow":
            n_blocks = n_layers - cell.entry
        token_layers += n_positions * n_blocks
    return batch * token_layers
