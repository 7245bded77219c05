"""Law 10 of sweeps: one intervention per prompt, a list of prompts, and positions that differ from row to row."""

from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_patch.errors import ValueRefusedError
from mlx_patch.interventions import Ablate, Apply, Edit, Intervention, Scale
from mlx_patch.laws import Bench, Finding, PromptRows
from mlx_patch.results import SweepResult
from mlx_patch.sites import SITES, Site
from mlx_patch.sweeps._law import LawMetric, Measured, equal, read, sweep_tolerance
from mlx_patch.sweeps._law_cells import LawCell
from mlx_patch.sweeps._measure import measure
from mlx_patch.sweeps._sweep import sweep

_NAMES = ("embed", "resid_post", "pattern")
"""The sites at which rows are checked."""


def independent_in_sweeps(bench: Bench) -> Iterator[Finding]:
    """Law 10, of sweeps."""
    rows = PromptRows.of(bench)
    sites = [Site(name, _middle(bench, name)) for name in _NAMES if bench.has(name)]
    yield from _check_intervention_a_prompt(rows, sites)
    yield from _check_positions_by_row(rows, sites)
    yield from _check_prompt_list(rows, sites)
    yield from _check_resample(rows)


def _check_intervention_a_prompt(rows: PromptRows, sites: Sequence[Site]) -> Iterator[Finding]:
    """One intervention per prompt: each row is that of a run in which all rows have its intervention."""
    cells = [_cell(site, Scale(1.0)) for site in sites if site.name != "pattern"]
    interventions: list[Intervention] = [Ablate("noise"), Ablate("resample"), Ablate("mean")]
    places = [{"site": cell.name, "layer": cell.edits[0].layer} for cell in cells]
    result = sweep(rows.bench.model, rows.tokens, interventions, over=places, metric=LawMetric(), progress=False)
    expected = [
        [_metric_values(rows, rows.tokens, [edit.at(**place)])[0, row] for row, edit in enumerate(interventions)]
        for place in places
    ]
    yield from _findings(rows, "one intervention a prompt", cells, result, np.array(expected), rows.tokens)


def _check_positions_by_row(rows: PromptRows, sites: Sequence[Site]) -> Iterator[Finding]:
    """Positions that differ from row to row, in a sweep as in a plain run."""
    cells = [_cell(site, _reading_intervention(site), pos=rows.marked) for site in sites]
    over = [list(cell.edits) for cell in cells]
    result = sweep(rows.bench.model, rows.tokens, over=over, metric=LawMetric(), progress=False)
    expected = [_metric_values(rows, rows.tokens, cell.edits)[0] for cell in cells]
    yield from _findings(rows, "positions by row", cells, result, np.array(expected), rows.tokens)


def _check_prompt_list(rows: PromptRows, sites: Sequence[Site]) -> Iterator[Finding]:
    """A list of prompts, two of one length: each gives what it gives alone."""
    prompts = [rows.row(0)[0], rows.row(1)[0], rows.row(2)[0, :-1]]
    batches = [prompt[None] for prompt in prompts]
    cells = [_cell(site, _reading_intervention(site)) for site in sites]
    over = [list(cell.edits) for cell in cells]
    result = sweep(rows.bench.model, prompts, over=over, metric=LawMetric(), progress=False)
    expected = np.array([[_metric_values(rows, batch, cell.edits)[0, 0] for batch in batches] for cell in cells])
    yield from _findings(rows, "a list of prompts", cells, result, expected, *batches)
    measured = measure(rows.bench.model, prompts, LawMetric(), cells[0].edits)
    deviation = float(np.abs(measured - expected[0]).max() / np.abs(expected).max())
    yield Finding(10, f"measure, a list of prompts, {cells[0].name}", deviation, sweep_tolerance(rows.bench))


def _check_resample(rows: PromptRows) -> Iterator[Finding]:
    """A prompt of a list has no other row to take anything from."""
    prompts = [rows.row(0)[0], rows.row(1)[0]]
    over = [Ablate("resample").at("embed")]
    try:
        sweep(rows.bench.model, prompts, over=over, metric=LawMetric(), progress=False)
    except ValueRefusedError:
        is_refused = True
    else:
        is_refused = False
    yield Finding(10, "a list of prompts, a resample without a source is refused", float(not is_refused), 0.0)


def _reading_intervention(site: Site) -> Intervention:
    """An intervention that reads several positions of the batch, or all keys."""
    if site.name == "pattern":
        return Apply(lambda pattern, site: 0.5 * mx.cumsum(pattern, axis=-1), name="summed")
    if site.name == "embed":
        return Ablate("noise")
    return Ablate("mean")


def _cell(site: Site, intervention: Intervention, **selections: Any) -> LawCell:
    edit = intervention.at(site.name, layer=site.layer, **selections)
    return LawCell(site.name, (edit,), 0, None)


def _metric_values(rows: PromptRows, tokens: mx.array, edits: Sequence[Edit] = ()) -> np.ndarray:
    """The metric of a plain run. Shape `(metric, example)`."""
    return read(rows.bench.model.run(tokens, edits), (-1,))


def _findings(
    rows: PromptRows, over: str, cells: Sequence[LawCell], result: SweepResult, values: np.ndarray, *prompts: mx.array
) -> Iterator[Finding]:
    """Findings of a sweep against the values of plain runs."""
    baseline = np.concatenate([_metric_values(rows, prompt) for prompt in prompts], axis=1)
    expected = Measured(values[:, None], baseline)
    yield from equal(rows.bench, over, result.plan.executor, tuple(cells), result, expected, law=10)


def _middle(bench: Bench, name: str) -> int | None:
    """The layer in the middle of those that have a site; None for a site without layers."""
    if not SITES[name].layered:
        return None
    layers = bench.captured_run[1].layers(name)
    return layers[len(layers) // 2]
