"""Law 10: rows are independent. A row of a batch is what it is alone, whatever edits the other rows have.

What an edit reads of the batch (its mean, its deviation, another row) is the batch that was there before it, in which
no row has been edited yet. And a list of prompts is each prompt alone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import mlx.core as mx
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
"""What reads the whole batch, or another row of it."""


@dataclass(frozen=True, repr=False)
class Marked(Selector):
    """Positions that are written down for each prompt.

    Attributes:
        of: By the prompt's token ids.
    """

    of: Mapping[tuple[int, ...], tuple[int, ...]]

    @override
    def find(self, prompt: Pieces) -> tuple[int, ...]:
        return self.of[prompt.ids]

    @override
    def __hash__(self) -> int:
        return hash(tuple(self.of))

    @override
    def __repr__(self) -> str:
        return f"marked({[list(positions) for positions in self.of.values()]})"


@dataclass(frozen=True, eq=False)
class Rows:
    """Three prompts of one length, and positions that are others in each.

    Attributes:
        bench: Where they are from.
        tokens: Shape `(3, pos)`.
        marked: Two positions of each.
    """

    bench: Bench
    tokens: mx.array
    marked: Marked

    @classmethod
    def of(cls, bench: Bench) -> "Rows":
        """The prompt, the donor's, and the prompt turned round."""
        tokens = mx.concatenate([bench.tokens[:1], bench.other[:1], bench.tokens[:1, ::-1]], axis=0)
        last = tokens.shape[1] - 1
        rows = [tuple(int(token) for token in row) for row in tokens.tolist()]  # pyright: ignore
        return cls(bench, tokens, Marked({row: ((n + 1) % last, last) for n, row in enumerate(rows)}))

    def row(self, number: int) -> mx.array:
        """One of the prompts. Shape `(1, pos)`."""
        return self.tokens[number : number + 1]

    def alone(self, number: int, *edits: Edit) -> mx.array:
        """The logits of one of the prompts in a run of its own."""
        return self.bench.model.run(self.row(number), edits)

    def positions(self, number: int) -> tuple[int, ...]:
        """The marked positions of one of the prompts."""
        return list(self.marked.of.values())[number]


def independent(bench: Bench) -> Iterator[Finding]:
    """Law 10, of runs."""
    rows = Rows.of(bench)
    together, alone = bench.model.run(rows.tokens), [rows.alone(n) for n in range(3)]
    for n, logits in enumerate(alone):
        what = f"logits of row {n}"
        yield bench.scale.finding(10, what, together[n : n + 1], logits, bench.scale.half_the_digits)
    apart = max(largest_deviation(together[n : n + 1], logits) for n, logits in enumerate(alone))
    tolerance = bench.scale.beside(apart)
    yield from _with_other_edits(rows, alone[2], tolerance)
    yield from _at_marked_positions(rows, tolerance)
    for name in _watched(bench):
        yield from _over_the_batch(rows, name)
    yield from _listed(rows, tolerance)


def _with_other_edits(rows: Rows, unedited: mx.array, tolerance: float) -> Iterator[Finding]:
    """Two sites at a time: one is edited in the first row, another in the second, nothing in the third."""
    bench, names = rows.bench, rows.bench.names
    for first, second in zip(names[::2], (*names[1::2], names[0]), strict=False):
        edits = (Scale(0.5).at(first, layer=_middle(bench, first)), _summing(bench, second))
        of_rows = [_of_row(edit, n) for n, edit in enumerate(edits)]
        got = bench.model.run(rows.tokens, of_rows)
        what = f"{first} edited in row 0, {second} in row 1"
        for n, edit in enumerate(edits):
            yield bench.scale.finding(10, f"{what}: row {n}", got[n : n + 1], rows.alone(n, edit), tolerance)
        yield bench.scale.finding(10, f"{what}: row 2", got[2:], unedited, tolerance)


def _at_marked_positions(rows: Rows, tolerance: float) -> Iterator[Finding]:
    """A selector that finds other positions in each row gives each what these positions give it alone."""
    bench = rows.bench
    for name in _watched(bench):
        summed, layer = _summing(bench, name).intervention, _middle(bench, name)
        got = bench.model.run(rows.tokens, [summed.at(name, layer=layer, pos=rows.marked)])
        for n in range(3):
            wanted = rows.alone(n, summed.at(name, layer=layer, pos=rows.positions(n)))
            what = f"{name} at positions of its own, row {n}"
            yield bench.scale.finding(10, what, got[n : n + 1], wanted, tolerance)


def _over_the_batch(rows: Rows, name: str) -> Iterator[Finding]:
    """Made at other positions in each row, they give there what they give them where they are made everywhere."""
    site = Site(name, _middle(rows.bench, name))
    batch = Bench(rows.bench.model, rows.tokens, rows.tokens)
    plain = batch.inside(site)[site]
    shape = [-1 if axis == pos_axis(site) - 1 else 1 for axis in range(plain.ndim - 1)]
    marks = [[p in rows.positions(n) for p in range(rows.tokens.shape[1])] for n in range(3)]
    marked = mx.stack([mx.array(row).reshape(shape) for row in marks])
    for what in _OF_THE_BATCH:
        everywhere = batch.inside(site, what.at(name, layer=site.layer))[site]
        by_row = batch.inside(site, what.at(name, layer=site.layer, pos=rows.marked))[site]
        wanted = mx.where(marked, everywhere, plain)
        yield rows.bench.scale.finding(10, f"{what!r} of {name} by row", by_row, wanted, rows.bench.scale.close)


def _listed(rows: Rows, tolerance: float) -> Iterator[Finding]:
    """A list of prompts, one of them shorter, is each prompt alone, whatever reads the batch."""
    bench, name = rows.bench, _watched(rows.bench)[-1]
    prompts = [rows.row(0), rows.row(1), rows.row(2)[:, :-1]]
    for what in (Ablate("noise"), Ablate("mean")):
        edit = what.at(name, layer=_middle(bench, name))
        got = bench.model.run_each([prompt[0] for prompt in prompts], [edit])
        for n, prompt in enumerate(prompts):
            wanted = bench.model.run(prompt, [edit])
            yield bench.scale.finding(10, f"{what!r} of {name} in a list, prompt {n}", got[n], wanted, tolerance)


def _watched(bench: Bench) -> tuple[str, ...]:
    """Where edits by row are looked at."""
    return tuple(name for name in ("embed", "resid_post") if bench.has(name))


def _middle(bench: Bench, name: str) -> int | None:
    layers = bench.own[1].layers(name)
    return layers[len(layers) // 2] if SITES[name].layered else None


def _summing(bench: Bench, name: str) -> Edit:
    """A sum over the positions so far, of what a row is edited with; over the keys so far of a pattern or scores."""

    def summed(activation: mx.array, site: Site) -> mx.array:
        if name == "attn_scores":
            return activation * 0.5
        return 0.5 * mx.cumsum(activation, axis=-1 if name == "pattern" else pos_axis(site))

    return Apply(summed).at(name, layer=_middle(bench, name))


def _of_row(edit: Edit, row: int) -> Edit:
    return edit.intervention.at(edit.site, layer=edit.layer, batch=row)
