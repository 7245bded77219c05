"""Law 10: rows are independent. A row of a batch has the values of its own run, whatever edits other rows have.

An edit that reads the batch (its mean, its deviation, another row) reads it as it was before any row was edited. And a
list of prompts gives what each prompt gives alone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import mlx.core as mx
import numpy as np
from typing_extensions import override

from mlx_patch.interventions import Ablate, Apply, Edit, Intervention, Scale, pos_axis
from mlx_patch.laws._bench import Bench
from mlx_patch.laws._report import Finding, largest_deviation
from mlx_patch.positions import Pieces, Selector
from mlx_patch.sites import SITES, Site

_OF_THE_BATCH: tuple[Intervention, ...] = (
    Ablate("noise"),
    Ablate("mean"),
    Ablate("mean", over="batch"),
    Ablate("resample"),
)
"""Interventions that read the whole batch, or another row of it."""


@dataclass(frozen=True, repr=False)
class Marked(Selector):
    """Positions that are listed for each prompt.

    Attributes:
        by_prompt: The positions, by the prompt's token ids.
    """

    by_prompt: Mapping[tuple[int, ...], tuple[int, ...]]

    @override
    def find(self, prompt: Pieces) -> tuple[int, ...]:
        return self.by_prompt[prompt.ids]

    @override
    def __hash__(self) -> int:
        return hash(tuple(self.by_prompt))

    @override
    def __repr__(self) -> str:
        return f"marked({[list(positions) for positions in self.by_prompt.values()]})"


@dataclass(frozen=True, eq=False)
class PromptRows:
    """Three prompts of one length, and positions that differ between them.

    Attributes:
        bench: The bench with their model.
        tokens: Shape `(3, pos)`.
        marked: Two positions of each prompt.
    """

    bench: Bench
    tokens: mx.array
    marked: Marked

    @classmethod
    def of(cls, bench: Bench) -> "PromptRows":
        """The prompt, the donor's, and the prompt in reverse."""
        first = bench.tokens[:1]
        tokens = mx.concatenate([first, bench.other[:1], first[:, ::-1]], axis=0)
        last = tokens.shape[1] - 1
        prompts = [tuple(row) for row in cast("list[list[int]]", tokens.tolist())]
        positions = {prompt: ((number + 1) % last, last) for number, prompt in enumerate(prompts)}
        return cls(bench, tokens, Marked(positions))

    def row(self, number: int) -> mx.array:
        """One of the prompts. Shape `(1, pos)`."""
        return self.tokens[number : number + 1]

    def alone(self, number: int, *edits: Edit) -> mx.array:
        """The logits of one of the prompts in a run of its own."""
        return self.bench.model.run(self.row(number), edits)

    def positions(self, number: int) -> tuple[int, ...]:
        """The marked positions of one of the prompts."""
        return list(self.marked.by_prompt.values())[number]


def independent(bench: Bench) -> Iterator[Finding]:
    """Law 10, of runs."""
    rows = PromptRows.of(bench)
    batch_logits = bench.model.run(rows.tokens)
    row_logits = [rows.alone(number) for number in range(3)]
    deviations = []
    for number, logits in enumerate(row_logits):
        in_batch = batch_logits[number : number + 1]
        deviations.append(largest_deviation(in_batch, logits))
        yield bench.scale.finding(10, f"logits of row {number}", in_batch, logits, bench.scale.half_the_digits)
    tolerance = bench.scale.beside(max(deviations))
    yield from _with_other_edits(rows, row_logits[2], tolerance)
    yield from _at_marked_positions(rows, tolerance)
    for name in _edited_sites(bench):
        yield from _over_the_batch(rows, name)
    yield from _list_of_prompts(rows, tolerance)


def _with_other_edits(rows: PromptRows, unpatched: mx.array, tolerance: float) -> Iterator[Finding]:
    """Two sites at a time: one is edited in the first row, another in the second, nothing in the third."""
    bench, names = rows.bench, rows.bench.names
    for first, second in zip(names[::2], (*names[1::2], names[0]), strict=False):
        scale = Scale(0.5).at(first, layer=_middle_layer(bench, first))
        edits = (scale, _cumulative_sum(bench, second))
        row_edits = [_in_row(edit, row) for row, edit in enumerate(edits)]
        logits = bench.model.run(rows.tokens, row_edits)
        description = f"{first} edited in row 0, {second} in row 1"
        for row, edit in enumerate(edits):
            row_logits, expected = logits[row : row + 1], rows.alone(row, edit)
            yield bench.scale.finding(10, f"{description}: row {row}", row_logits, expected, tolerance)
        yield bench.scale.finding(10, f"{description}: row 2", logits[2:], unpatched, tolerance)


def _at_marked_positions(rows: PromptRows, tolerance: float) -> Iterator[Finding]:
    """A selector that finds other positions in each row gives what these positions give each row alone."""
    bench = rows.bench
    for name in _edited_sites(bench):
        intervention, layer = _cumulative_sum(bench, name).intervention, _middle_layer(bench, name)
        edit = intervention.at(name, layer=layer, pos=rows.marked)
        logits = bench.model.run(rows.tokens, [edit])
        for row in range(3):
            row_edit = intervention.at(name, layer=layer, pos=rows.positions(row))
            row_logits, expected = logits[row : row + 1], rows.alone(row, row_edit)
            description = f"{name} at positions of its own, row {row}"
            yield bench.scale.finding(10, description, row_logits, expected, tolerance)


def _over_the_batch(rows: PromptRows, name: str) -> Iterator[Finding]:
    """An edit at other positions in each row gives there what the edit at all positions gives."""
    site = Site(name, _middle_layer(rows.bench, name))
    batch = Bench(rows.bench.model, rows.tokens, rows.tokens)
    plain = batch.inside(site)[site]
    is_marked = _marks(rows, site, plain.ndim)
    for intervention in _OF_THE_BATCH:
        everywhere = batch.inside(site, intervention.at(name, layer=site.layer))[site]
        edit = intervention.at(name, layer=site.layer, pos=rows.marked)
        by_row = batch.inside(site, edit)[site]
        expected = mx.where(is_marked, everywhere, plain)
        description = f"{intervention!r} of {name} by row"
        yield rows.bench.scale.finding(10, description, by_row, expected, rows.bench.scale.close)


def _marks(rows: PromptRows, site: Site, ndim: int) -> mx.array:
    """Whether each position of each row is marked, to broadcast over the other axes of a site."""
    shape = [1] * ndim
    shape[0], shape[pos_axis(site)] = rows.tokens.shape
    marks = np.zeros(rows.tokens.shape, dtype=bool)
    for row in range(3):
        marks[row, list(rows.positions(row))] = True
    return mx.array(marks).reshape(shape)


def _list_of_prompts(rows: PromptRows, tolerance: float) -> Iterator[Finding]:
    """A list of prompts, one of them shorter, gives what each prompt gives alone, even if an edit reads the batch."""
    bench, name = rows.bench, _edited_sites(rows.bench)[-1]
    prompts = [rows.row(0), rows.row(1), rows.row(2)[:, :-1]]
    for intervention in (Ablate("noise"), Ablate("mean")):
        edit = intervention.at(name, layer=_middle_layer(bench, name))
        logits = bench.model.run_each([prompt[0] for prompt in prompts], [edit])
        for number, prompt in enumerate(prompts):
            expected = bench.model.run(prompt, [edit])
            description = f"{intervention!r} of {name} in a list, prompt {number}"
            yield bench.scale.finding(10, description, logits[number], expected, tolerance)


def _edited_sites(bench: Bench) -> tuple[str, ...]:
    """The sites at which edits by row are checked."""
    return tuple(name for name in ("embed", "resid_post") if bench.has(name))


def _middle_layer(bench: Bench, name: str) -> int | None:
    if not SITES[name].layered:
        return None
    layers = bench.captured_run[1].layers(name)
    return layers[len(layers) // 2]


def _cumulative_sum(bench: Bench, name: str) -> Edit:
    """Half the sum over positions so far, or over keys so far of a pattern; scores, which may be -inf, are halved."""

    def apply(activation: mx.array, site: Site) -> mx.array:
        if name == "attn_scores":
            return activation * 0.5
        if name == "pattern":
            return 0.5 * mx.cumsum(activation, axis=-1)
        return 0.5 * mx.cumsum(activation, axis=pos_axis(site))

    return Apply(apply).at(name, layer=_middle_layer(bench, name))


def _in_row(edit: Edit, row: int) -> Edit:
    return edit.intervention.at(edit.site, layer=edit.layer, batch=row)
