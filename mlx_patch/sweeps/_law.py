"""Law 8: a fast sweep equals the reference sweep, at the cost that its plan names.

It goes by what `sweep` and `plan` show, so that it holds for whatever is put in place of their insides.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np
from typing_extensions import override

from mlx_patch.errors import ArchitectureError
from mlx_patch.interventions import Edit, Replace
from mlx_patch.laws import Bench, Finding, Report, check_laws
from mlx_patch.metrics import RowMetric
from mlx_patch.sites import Site
from mlx_patch.sweeps._result import SweepResult
from mlx_patch.sweeps._sweep import plan, sweep

_SITES = ("resid_post", "attn_out", "mixer_out", "mlp_out", "z")
"""Where to patch; `mixer_out` in blocks whose mixer is no attention."""

_LAYERS = 5
"""Layers that are patched at each site at most: the first, the last, and some between."""

_HEADS = 3
"""Heads that are patched in each layer at most."""

_LENGTH = 8

_CLOSE = 1e-5
"""What a sweep in float32 may differ by, as a fraction of the largest number that it measures."""

T = TypeVar("T")


@dataclass(frozen=True, repr=False)
class _Shadow(RowMetric):
    """The logits at one position on a fixed direction that has something of every token."""

    @override
    def measure_row(self, row: mx.array) -> mx.array:
        direction = mx.cos(mx.arange(row.shape[-1]) * 2.4)
        return mx.where(mx.isinf(row), 0, row) @ direction


@dataclass(frozen=True)
class _Cell:
    """One patched run: at which site, from which block on, and at which position; None is all."""

    name: str
    edit: Edit
    entry: int
    pos: int | None


@dataclass(frozen=True)
class _Sweep:
    """Cells that are run in one sweep, and the positions whose logits are measured."""

    over: str
    cells: tuple[_Cell, ...]
    reads: tuple[int, ...]


def check_sweeps(model: Any, prompt: Any = None) -> Report:
    """Check on a model that fast sweeps equal the reference sweep (law 8).

    Args:
        model: A `HookedModel`.
        prompt: A text, messages or token ids, of 4 tokens or more; None is two rows of 8 tokens.
    Returns:
        Every finding, as `check_laws` gives them.
    Raises:
        ShapeError: The prompt is too short.
    """
    if prompt is None:
        prompt = mx.array([[(11 + 37 * (i + row * _LENGTH)) % model.d_vocab for i in range(_LENGTH)] for row in (0, 1)])
    return check_laws(model, prompt, (exact_sweeps,))


def exact_sweeps(bench: Bench) -> Iterator[Finding]:
    """Law 8."""
    last = bench.tokens.shape[1] - 1
    yield from _compared(bench, _Sweep("layer", tuple(_layers(bench)), (bench.middle, last)))
    yield from _compared(bench, _Sweep("layer and pos", tuple(_positions(bench)), (last,)))
    if heads := tuple(_heads(bench)):
        yield from _compared(bench, _Sweep("layer and head", heads, (last,)))


def _layers(bench: Bench) -> Iterator[_Cell]:
    for site in _places(bench):
        yield _cell(bench, site)


def _positions(bench: Bench) -> Iterator[_Cell]:
    for site in _places(bench):
        yield from (_cell(bench, site, pos=pos) for pos in (bench.middle // 2, bench.tokens.shape[1] - 1))


def _heads(bench: Bench) -> Iterator[_Cell]:
    last = bench.tokens.shape[1] - 1
    for site in _places(bench):
        if "head" in site.axes:
            heads = bench.donor[1][site].shape[site.axes.index("head")]
            yield from (_cell(bench, site, pos=last, head=head) for head in _spread(range(heads), _HEADS))


def _places(bench: Bench) -> Iterator[Site]:
    donor = bench.donor[1]
    for name in filter(bench.has, _SITES):
        layers = donor.layers(name)
        if name == "mixer_out" and bench.has("attn_out"):
            layers = tuple(layer for layer in layers if layer not in donor.layers("attn_out"))
        yield from (Site(name, layer) for layer in _spread(layers, _LAYERS))


def _cell(bench: Bench, site: Site, pos: int | None = None, head: int | None = None) -> _Cell:
    layer = site.layer or 0
    edit = Replace(bench.donor[1]).at(site.name, layer=layer, pos=pos, head=head)
    return _Cell(site.name, edit, layer + (site.name == "resid_post"), pos)


def _spread(every: Sequence[T], most: int) -> list[T]:
    """The first, the last, and as many between as there may be."""
    steps = min(len(every), most)
    return [every[i * (len(every) - 1) // max(1, steps - 1)] for i in range(steps)]


def _compared(bench: Bench, one: _Sweep) -> Iterator[Finding]:
    arguments: dict[str, Any] = {
        "model": bench.model,
        "tokens": bench.tokens,
        "over": [cell.edit for cell in one.cells],
        "metric": [_Shadow(pos=pos) for pos in one.reads],
    }
    reference = sweep(**arguments, executor="reference", progress=False)
    rows = sweep(**arguments, executor="rows", progress=False)
    cheapest = sweep(**arguments, executor="auto", progress=False, memory=rows.plan.memory // 2)
    yield from _grounds(bench, one, reference)
    yield from _equal(bench, one, "rows", rows, reference)
    yield from _equal(bench, one, f"{cheapest.plan.executor} in smaller passes", cheapest, reference)
    if cheapest.plan.executor != "grow":
        yield Finding(8, f"by {one.over}, grow is refused", float(not _refused(arguments)), 0.0)


def _refused(arguments: dict[str, Any]) -> bool:
    try:
        plan(**arguments, executor="grow")
    except ArchitectureError:
        return True
    return False


def _grounds(bench: Bench, one: _Sweep, reference: SweepResult) -> Iterator[Finding]:
    """What the comparison stands on: what is measured is of the model's own logits, and patches reach it."""
    own = np.stack([np.array(_Shadow(pos=pos)(bench.plain)) for pos in one.reads])
    deviation = _apart(reference.baseline, own, float(np.abs(own).max()))
    yield Finding(8, f"by {one.over}, what is measured", deviation, _tolerance(bench))
    last = max(one.reads)
    same = (reference.values == reference.baseline).reshape(len(one.cells), -1).all(axis=1)
    blind = [cell for cell, is_same in zip(one.cells, same, strict=True) if is_same and cell.pos in (None, last)]
    yield Finding(8, f"by {one.over}, patches show", float(len(blind)), 0.0)


def _tolerance(bench: Bench) -> float:
    """Blocks reorder their sums one on top of the other; with more than a quarter nothing would be checked."""
    return max(_CLOSE, min(bench.model.n_layers * bench.scale.close, 0.25))


def _equal(bench: Bench, one: _Sweep, how: str, fast: SweepResult, reference: SweepResult) -> Iterator[Finding]:
    size = max(float(np.abs(array).max()) for array in (reference.values, reference.baseline))
    what, tolerance = f"by {one.over}, {how}", _tolerance(bench)
    yield Finding(8, f"{what}, unedited", _apart(fast.baseline, reference.baseline, size), tolerance)
    for name in dict.fromkeys(cell.name for cell in one.cells):
        own = [i for i, cell in enumerate(one.cells) if cell.name == name]
        deviation = _apart(fast.values[own], reference.values[own], size)
        yield Finding(8, f"{what}, {name}", deviation, tolerance)
    yield Finding(8, f"{what}, cost", _too_much(bench, one, fast), 0.0)


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
