"""Law 10 of sweeps: one intervention a prompt, a list of prompts, and positions that are others in each row."""

from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_patch.errors import ValueRefusedError
from mlx_patch.interventions import Ablate, Apply, Edit, Intervention, Scale
from mlx_patch.laws import Bench, Finding, Rows
from mlx_patch.sites import SITES, Site
from mlx_patch.sweeps._law import LawMetric, Measured, equal, read, sweep_tolerance
from mlx_patch.sweeps._law_cells import LawCell
from mlx_patch.sweeps._measure import measure
from mlx_patch.sweeps._sweep import sweep

_NAMES = ("embed", "resid_post", "pattern")
"""Where rows are looked at."""


def independent_in_sweeps(bench: Bench) -> Iterator[Finding]:
    """Law 10, of sweeps."""
    rows = Rows.of(bench)
    sites = [Site(name, _middle(bench, name)) for name in _NAMES if bench.has(name)]
    yield from _of_each(rows, sites)
    yield from _marked(rows, sites)
    yield from _listed(rows, sites)
    yield from _resampled(rows)


def _of_each(rows: Rows, sites: Sequence[Site]) -> Iterator[Finding]:
    """One intervention a prompt: each row is that of a run in which all rows have its intervention."""
    cells = [_cell(site, Scale(1.0)) for site in sites if site.name != "pattern"]
    each: list[Intervention] = [Ablate("noise"), Ablate("resample"), Ablate("mean")]
    wheres = [{"site": cell.name, "layer": cell.edits[0].layer} for cell in cells]
    got = sweep(rows.bench.model, rows.tokens, each, over=wheres, metric=LawMetric(), progress=False)
    wanted = [
        [_numbers(rows, rows.tokens, [what.at(**where)])[0, n] for n, what in enumerate(each)] for where in wheres
    ]
    yield from _findings(rows, "one intervention a prompt", cells, got, np.array(wanted), rows.tokens)


def _marked(rows: Rows, sites: Sequence[Site]) -> Iterator[Finding]:
    """Positions that are others in each row, in a sweep as in a plain run."""
    cells = [_cell(site, _several(site), pos=rows.marked) for site in sites]
    over = [list(cell.edits) for cell in cells]
    got = sweep(rows.bench.model, rows.tokens, over=over, metric=LawMetric(), progress=False)
    wanted = [_numbers(rows, rows.tokens, cell.edits)[0] for cell in cells]
    yield from _findings(rows, "positions by row", cells, got, np.array(wanted), rows.tokens)


def _listed(rows: Rows, sites: Sequence[Site]) -> Iterator[Finding]:
    """A list of prompts, two of one length: each is what it is alone."""
    prompts = [rows.row(0)[0], rows.row(1)[0], rows.row(2)[0, :-1]]
    cells = [_cell(site, _several(site)) for site in sites]
    over = [list(cell.edits) for cell in cells]
    got = sweep(rows.bench.model, prompts, over=over, metric=LawMetric(), progress=False)
    wanted = [[_numbers(rows, prompt[None], cell.edits)[0, 0] for prompt in prompts] for cell in cells]
    yield from _findings(rows, "a list of prompts", cells, got, np.array(wanted), *(prompt[None] for prompt in prompts))
    alone = measure(rows.bench.model, prompts, LawMetric(), cells[0].edits)
    apart = float(np.abs(alone - np.array(wanted[0])).max() / np.abs(wanted).max())
    yield Finding(10, f"measure, a list of prompts, {cells[0].name}", apart, sweep_tolerance(rows.bench))


def _resampled(rows: Rows) -> Iterator[Finding]:
    """A prompt of a list has no other row to take anything from."""
    prompts, over = [rows.row(0)[0], rows.row(1)[0]], [Ablate("resample").at("embed")]
    try:
        sweep(rows.bench.model, prompts, over=over, metric=LawMetric(), progress=False)
    except ValueRefusedError:
        refused = True
    else:
        refused = False
    yield Finding(10, "a list of prompts, a resample without a source is refused", float(not refused), 0.0)


def _several(site: Site) -> Intervention:
    """What reads several positions of the batch, or all keys."""
    if site.name == "pattern":
        return Apply(lambda pattern, site: 0.5 * mx.cumsum(pattern, axis=-1), name="summed")
    return Ablate("noise") if site.name == "embed" else Ablate("mean")


def _cell(site: Site, what: Intervention, **where: Any) -> LawCell:
    return LawCell(site.name, (what.at(site.name, layer=site.layer, **where),), 0, None)


def _numbers(rows: Rows, tokens: mx.array, edits: Sequence[Edit] = ()) -> np.ndarray:
    """The metric of a plain run. Shape `(metric, example)`."""
    return read(rows.bench.model.run(tokens, edits), (-1,))


def _findings(
    rows: Rows, over: str, cells: Sequence[LawCell], got: Any, values: np.ndarray, *prompts: mx.array
) -> Iterator[Finding]:
    baseline = np.concatenate([_numbers(rows, prompt) for prompt in prompts], axis=1)
    wanted = Measured(values[:, None], baseline)
    yield from equal(rows.bench, over, got.plan.executor, tuple(cells), got, wanted, law=10)


def _middle(bench: Bench, name: str) -> int | None:
    layers = bench.own[1].layers(name)
    return layers[len(layers) // 2] if SITES[name].layered else None
