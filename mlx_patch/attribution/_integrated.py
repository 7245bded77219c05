"""`Integrated`: gradients along the way from the host's embeddings to the source's, summed over increments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import mlx.core as mx
import numpy as np
from typing_extensions import override

from mlx_patch.architectures import Layout
from mlx_patch.attribution._gradients import GradientRun, SiteGradient, putting, run_with_gradients
from mlx_patch.attribution._methods import Effects, Method, no_effects
from mlx_patch.attribution._prompt_run import PromptRun
from mlx_patch.cache import ActivationCache
from mlx_patch.errors import KindError, ShapeError, shown
from mlx_patch.execution.cells import Cell
from mlx_patch.interventions import Edit, Elementwise, PromptEdits, Replace, RowEdits, Span, Where
from mlx_patch.model import run
from mlx_patch.sites import Site

_EMBED = Site("embed")
_FEWEST, _MOST = 8, 64
_TOLERANCE = 0.01
"""The residual, as a share of the metric's difference, at which no more steps are taken."""


@final
@dataclass(frozen=True)
class Integrated(Method):
    """Integrated gradients with path increments.

    The model runs on embeddings between those of the host's tokens and those of the source's. Each step contributes the
    increment of an activation times the mean of the gradients at its two ends. So the sum over any place that the whole
    computation goes through is the metric's difference, but for a residual that falls with the number of steps.

    Attributes:
        steps: How many; None doubles them, from 8 to 64 at most, until the residual is below 1 %.
    """

    steps: int | None = None

    @override
    def first_position(self, start: int) -> int:
        return 0

    @override
    def effects(self, prompt_run: PromptRun, cells: Sequence[Cell], sites: Sequence[Site], span: Span) -> Effects:
        way = _way_of(prompt_run, cells)
        steps = self.steps or _FEWEST
        while True:
            integral = _integrate(prompt_run, way, tuple(dict.fromkeys([*_cuts(prompt_run.layout), *sites])), steps)
            share = integral.residual / max(integral.difference, 1e-12)
            if self.steps is not None or share < _TOLERANCE or steps >= _MOST:
                break
            steps *= 2
        # The entries stand for a gradient, and the cells change by 1 what they edit: each sums what it edits.
        marking = [replace(cell, edits=tuple(map(_marking, cell.edits))) for cell in cells]
        effects = no_effects(prompt_run, marking, span)
        for site, entries in integral.entries.items():
            effects.add({site: SiteGradient(mx.zeros(entries.shape[1:]), entries)})
        notes = {**integral.notes, "steps": steps, "residual": integral.residual}
        return Effects(integral.baseline, effects.values, notes)


@dataclass(frozen=True)
class _Mark(Elementwise):
    """1 at every entry that an edit is at."""

    @override
    def __call__(self, own: mx.array, where: Where) -> mx.array:
        return mx.ones_like(own)


def _marking(edit: Edit) -> Edit:
    """An edit of the same entries that puts 1 there."""
    if isinstance(edit, RowEdits | PromptEdits):
        return replace(edit, members=tuple(map(_marking, edit.members)))
    return replace(edit, intervention=_MARK)


_MARK = _Mark()


@dataclass(frozen=True, eq=False)
class _Way:
    """Two embeddings. Shape `(batch, pos, d_model)` each."""

    host: mx.array
    source: mx.array

    def at(self, share: float) -> mx.array:
        return (1.0 - share) * self.host + share * self.source


@dataclass(frozen=True, eq=False)
class _Integral:
    """What the steps along a way add up to.

    Attributes:
        baseline: The metrics at the host's end. Shape `(metric, batch)`.
        difference: The largest difference of a metric between the two ends.
        residual: The largest difference of a metric that the increments leave out, at any cut of the stream.
        entries: What each entry contributes, by site. Shape `(metric, *activation.shape)`.
        notes: What a result should say of its runs.
    """

    baseline: np.ndarray
    difference: float
    residual: float
    entries: Mapping[Site, mx.array]
    notes: Mapping[str, float | str]


def _integrate(prompt_run: PromptRun, way: _Way, sites: Sequence[Site], steps: int) -> _Integral:
    increments = _Increments()
    runs = [_run_at(prompt_run, way.at(number / steps), sites, increments) for number in range(steps + 1)]
    baseline = np.array(runs[0].values)
    difference = np.array(runs[-1].values) - baseline
    residual = max(_left_out(increments.entries[cut], difference) for cut in _cuts(prompt_run.layout))
    return _Integral(baseline, float(np.abs(difference).max()), residual, increments.entries, runs[0].notes)


class _Increments:
    """What the steps along a way contribute, as the gradients at their ends become known.

    Attributes:
        entries: What each entry contributed so far, by site. Shape `(metric, *activation.shape)`.
    """

    def __init__(self) -> None:
        self.entries: dict[Site, mx.array] = {}
        self._before: dict[Site, SiteGradient] = {}

    def add(self, gradients: Mapping[Site, SiteGradient]) -> None:
        """Add the step from the last gradients at some sites to new ones; the first ones only begin the way."""
        for site, after in gradients.items():
            before = self._before.get(site)
            self._before[site] = after
            if before is not None:
                increment = _increment(before, after)
                self.entries[site] = self.entries.get(site, 0) + increment
                mx.eval(self.entries[site])


def _cuts(layout: Layout) -> tuple[Site, ...]:
    """Where the whole computation passes through one activation: the embeddings, and the stream between blocks."""
    last = Site("resid_post", len(layout.blocks) - 1)
    if layout.family.shared or layout.family.rereads:
        return (_EMBED, last)
    return (_EMBED, *(site for site in layout.sites if site.name == "resid_pre"), last)


def _left_out(entries: mx.array, difference: np.ndarray) -> float:
    """How far the sum over a cut is from the metric's difference, for the worst metric and row."""
    summed = np.array(entries.reshape(*difference.shape, -1).sum(axis=-1))
    return float(np.abs(summed - difference).max())


def _run_at(prompt_run: PromptRun, embedding: mx.array, sites: Sequence[Site], increments: _Increments) -> GradientRun:
    """The run on an embedding, whose gradients end one step and begin the next."""

    embedded = replace(prompt_run, actions=((_EMBED, putting(embedding)),))
    return run_with_gradients(embedded, sites, increments.add)


def _increment(before: SiteGradient, after: SiteGradient) -> mx.array:
    """What one step contributes, by entry."""
    change = after.unpatched.astype(mx.float32) - before.unpatched.astype(mx.float32)
    slope = (before.gradient.astype(mx.float32) + after.gradient.astype(mx.float32)) / 2
    return mx.where(slope == 0, 0, slope * change)


def _way_of(prompt_run: PromptRun, cells: Sequence[Cell]) -> _Way:
    """The way from the embeddings of the prompts to those of the source's tokens.

    Raises:
        KindError: Some edit takes nothing from another run, or cells have different sources.
        ShapeError: The source's prompts have another length.
    """
    sources = {id(source): source for cell in cells for edit in cell.edits for source in map(_source_of, edit.parts)}
    if len(sources) > 1:
        raise KindError(
            f"`intervention` must have one source where method='integrated'. Got {len(sources)}. Attribute them one by "
            "one, or use method='gradient'."
        )
    [source] = sources.values()
    tokens = source.tokens
    if tokens.shape[1] != prompt_run.length or tokens.shape[0] not in (1, prompt_run.tokens.shape[0]):
        raise ShapeError(
            f"`intervention` must have a source of prompts of the same shape where method='integrated'. Got "
            f"{tokens.shape} for {prompt_run.tokens.shape}. Use method='gradient', which takes any source."
        )
    host = _embedding(prompt_run.layout, prompt_run.tokens)
    return _Way(host, mx.broadcast_to(_embedding(prompt_run.layout, tokens), host.shape))


def _embedding(layout: Layout, tokens: mx.array) -> mx.array:
    return run(layout, tokens, sites=(_EMBED,)).activations[_EMBED]


def _source_of(edit: Edit) -> ActivationCache:
    intervention = edit.intervention
    if type(intervention) is not Replace or not isinstance(intervention.source, ActivationCache):
        raise KindError(
            f"`intervention` must be Replace(cache) where method='integrated', for the way leads to the cache's own "
            f"prompt. Got {shown(intervention)}. Use method='gradient', which takes any intervention."
        )
    return intervention.source
