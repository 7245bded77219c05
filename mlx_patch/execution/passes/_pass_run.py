"""One pass: many cells in one forward pass, each in rows of its own."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import pairwise

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from mlx_patch.architectures import Layout, Place
from mlx_patch.engine import Action, ForwardPass, Frame, Hook, Phase, RestoredPast, repeated
from mlx_patch.errors import EditNotUsedError, ShapeError
from mlx_patch.execution.cells import Cell, edits_before_entry, places_of, stream_before, unpatched_site
from mlx_patch.execution.passes._last_block import mlp_hooks
from mlx_patch.execution.passes._splitting import split_points, works_in_pieces
from mlx_patch.execution.passes._unpatched import UnpatchedRun
from mlx_patch.execution.plan import Pass
from mlx_patch.execution.readouts import Readout
from mlx_patch.interventions import Edit, Span
from mlx_patch.model import action_hooks, refuse_unused, slice_hook
from mlx_patch.sites import Site


@dataclass
class PassRun:
    """The rows of a pass: cell after cell, each with all rows of the prompts.

    Attributes:
        layout: The model's layout.
        tokens: The whole prompts. Shape `(batch, pos)`.
        start: The first position that is computed.
        cells: In the order in which their rows enter.
        entries: The block at which each enters.
        piece: Positions that run at once, at most, where the cells and the model allow more than one piece.
        token_layers: What went through the blocks, counted as it goes.
        stages: What enters each block that all cells need, with the token-layers before it: to see how far it is.
        used: Which edits have acted: numbers of a cell, and of an edit in it.
        height: The rows of the batch, as it grows.
        in_pieces: Whether the positions run piece by piece.
    """

    layout: Layout
    tokens: mx.array
    start: int
    cells: Sequence[Cell]
    entries: Sequence[int]
    piece: int
    token_layers: int = 0
    height: int = 0
    in_pieces: bool = False
    stages: list[tuple[int, mx.array]] = field(default_factory=list)
    used: set[tuple[int, int]] = field(default_factory=set)

    @classmethod
    def of(
        cls,
        layout: Layout,
        tokens: mx.array,
        shape: Pass,
        cells: Sequence[Cell],
        piece: int,
        stages: list[tuple[int, mx.array]],
    ) -> "PassRun":
        """The rows of one pass of a plan."""
        return cls(layout, tokens, shape.start, cells, shape.entries, piece, stages=stages)

    @property
    def batch(self) -> int:
        """The rows of one cell."""
        return self.tokens.shape[0]

    @property
    def length(self) -> int:
        """The positions of the prompts."""
        return self.tokens.shape[1]

    def run(self, unpatched: UnpatchedRun, readout: Readout, grow: bool) -> mx.array:
        """Every metric of every cell, unevaluated. Shape `(cell, metric, batch)`."""
        layout, rows = self.layout, 1 if grow else len(self.cells)
        whole, readout = readout, readout.since(self.start)
        edges = (self.start, *self._cuts(readout), self.length)
        self.in_pieces = len(edges) > 2
        opened = unpatched.past[self.start].opened() if self.start else None
        fresh = make_prompt_cache(layout.model) if self.in_pieces or layout.family.cached else None
        if opened is not None:
            opened.rows(rows)
        hooks = [*(self._entering(unpatched, opened) if grow else self._counting())]
        actions = self._actions()
        hooks += action_hooks(layout, actions)
        last = [slice_hook(layout, readout.at)] if readout.at is not None else []
        if len(edges) == 2:  # else the last piece begins where metrics first read
            last += mlp_hooks(layout, readout.at, self.length, self._made_inside())
        sharing = [Hook(place, _nothing, Phase.SHARE) for place in layout.attentions()] if opened else []
        tokens = repeated(self.tokens, rows * self.batch)
        logits = tokens
        for begin, end in pairwise(edges):
            self.height = rows * self.batch
            seen = [*hooks, *sharing, *(last if end == self.length else [])]
            logits = self._forward(tokens[:, begin:end], seen, opened.caches if opened else fresh)
        refuse_unused([*hooks, *last])
        self._refuse_unmade()
        early = len(whole.at or ()) - len(readout.at or ())
        own = [_behind(unpatched, early, logits[self._at(i)]) for i in range(len(self.cells))]
        return mx.stack([whole.measure(each, self.length) for each in own])

    def _cuts(self, readout: Readout) -> tuple[int, ...]:
        found = split_points(self.layout, readout, self.start, self.length, self.piece)
        if not found:
            return ()
        first = Span(self.start, found[0] - self.start, self.length, pieces=True)
        return found if all(works_in_pieces(edit, first) for cell in self.cells for edit in cell.edits) else ()

    def _forward(self, tokens: mx.array, hooks: Sequence[Hook], caches: list | None) -> mx.array:
        with Frame(self.layout.model, hooks):
            return self.layout.model(tokens, **({} if caches is None else {"cache": caches}))

    def _at(self, cell: int) -> slice:
        return slice(cell * self.batch, (cell + 1) * self.batch)

    def _counting(self) -> Iterator[Hook]:
        def count(value: mx.array, now: ForwardPass) -> None:
            self._note(value)
            self.token_layers += value.shape[0] * now.length

        for layer in range(len(self.layout.blocks)):
            yield Hook(self.layout.place(Site("resid_pre", layer)), count, Phase.GROW)

    def _entering(self, unpatched: UnpatchedRun, opened: RestoredPast | None) -> Iterator[Hook]:
        """The hooks that let rows enter at their block, and count. Behind the last one they enter after its edits."""
        blocks = len(self.layout.blocks)
        if opened is not None:
            yield Hook(self.layout.place(_entrance(self.layout, 0)), partial(self._settled, opened), Phase.GROW)
        for layer in range(min(self.entries), blocks):
            action = partial(self._entered, layer, unpatched, opened)
            yield Hook(self.layout.place(_entrance(self.layout, layer)), action, Phase.GROW)
        place = self.layout.place(Site("resid_post", blocks - 1))
        yield Hook(place, partial(self._entered, blocks, unpatched, opened), Phase.CAPTURE)

    def _note(self, value: mx.array) -> None:
        """Note what enters a block, if it is computed in any case: a second edit may replace it as a whole."""
        if self.token_layers and self._staged:
            self.stages.append((self.token_layers, value))

    @cached_property
    def _staged(self) -> bool:
        return len(self.cells) > 1 and all(_is_simple(self.layout, cell) for cell in self.cells)

    def _settled(self, opened: RestoredPast, value: mx.array, now: ForwardPass) -> None:
        if now.offset == self.start:
            opened.settle()

    def _entered(
        self, layer: int, unpatched: UnpatchedRun, opened: RestoredPast | None, value: mx.array, now: ForwardPass
    ) -> mx.array | None:
        here = [i for i, entry in enumerate(self.entries) if entry == layer]
        before = [] if layer == self.entries[0] else [value]
        if before and layer < len(self.layout.blocks):
            self._note(value)
        grown = (
            mx.concatenate([*before, *(self._row(i, unpatched, value, now) for i in here)], axis=0) if here else value
        )
        self.height = grown.shape[0]
        if layer < len(self.layout.blocks):
            self.token_layers += grown.shape[0] * now.length
        if here and opened is not None and now.offset == self.start:
            opened.rows(grown.shape[0] // self.batch)
        return grown if here else None

    def _row(self, cell: int, unpatched: UnpatchedRun, like: mx.array, now: ForwardPass) -> mx.array:
        """What a cell's row begins with: the unedited stream, after the edits that are made before it enters."""
        layer = self.entries[cell]
        edits = edits_before_entry(self.cells[cell], self.layout, layer)
        if not edits:
            return self._unedited(unpatched_site(self.layout, layer), unpatched, like, now)
        site = Site("resid_post", layer - 1)
        stream = self._unedited(site, unpatched, like, now)
        for edit in edits:
            stream = self._edited(cell, edit, stream, site, now)
        return self.layout.between(layer, stream) if layer < len(self.layout.blocks) else stream

    def _unedited(self, site: Site, unpatched: UnpatchedRun, like: mx.array, now: ForwardPass) -> mx.array:
        if site not in unpatched.stream:  # wholly replaced, so that nothing of it is ever computed
            return mx.zeros((self.batch, *like.shape[1:]), like.dtype)
        begin = now.offset - unpatched.first
        return unpatched.stream[site][:, begin : begin + now.length]

    def _edited(self, cell: int, edit: Edit, value: mx.array, site: Site, now: ForwardPass) -> mx.array:
        new = edit.apply(value, site, Span(now.offset, now.length, self.length, pieces=self.in_pieces))
        if new is None:
            return value
        self.used.add((cell, id(edit)))
        return new

    def _actions(self) -> list[tuple[Place, Action]]:
        """What is edited at each site, over all cells; in an order in which the edits of each cell keep their own."""
        found: list[tuple[Site, dict[int, list[Edit]]]] = []
        for i, cell in enumerate(self.cells):
            turn = 0  # two sites can be one place, where order matters: `embed` and the first `resid_pre`
            for edit in cell.edits:
                for site in places_of(self.layout, edit):
                    if site != stream_before(self.entries[i]):
                        turn = next((n for n in range(turn, len(found)) if found[n][0] == site), len(found))
                        if turn == len(found):
                            found.append((site, {}))
                        found[turn][1].setdefault(i, []).append(edit)
        return [(self.layout.place(site), partial(self._act, site, edits)) for site, edits in found]

    def _made_inside(self) -> Iterator[tuple[Site, Edit]]:
        """Every edit and its sites, but for those that are made before the row of the cell enters."""
        for cell, entry in zip(self.cells, self.entries, strict=True):
            for edit in cell.edits:
                yield from ((site, edit) for site in places_of(self.layout, edit) if site != stream_before(entry))

    def _act(self, site: Site, edits: Mapping[int, Sequence[Edit]], value: mx.array, now: ForwardPass) -> mx.array:
        if value.shape[:1] != (self.height,):
            raise ShapeError(
                f"`executor` must be 'reference' for edits at {site}, whose first axis does not hold the rows of the "
                f"batch. Got shape {value.shape} with {self.height} rows. Choose it, or a named site."
            )
        pieces, done = [], 0
        for i in sorted(edits):
            own = self._at(i)
            row = value[own]
            for edit in edits[i]:
                row = self._edited(i, edit, row, site, now)
            pieces += [value[done : own.start], row] if own.start > done else [row]
            done = own.stop
        return mx.concatenate([*pieces, value[done:]] if done < value.shape[0] else pieces, axis=0)

    def _refuse_unmade(self) -> None:
        for i, cell in enumerate(self.cells):
            for edit in cell.edits:
                if (i, id(edit)) not in self.used:
                    raise EditNotUsedError(
                        f"`edits` must each act. {edit!r} did not: none of its positions was computed. "
                        "Choose positions of this prompt."
                    )


def _behind(unpatched: UnpatchedRun, early: int, logits: mx.array) -> mx.array:
    """A cell's logits, behind those that are read before its pass begins, where it is as the unedited run."""
    return (
        logits
        if not early or unpatched.logits is None
        else mx.concatenate([unpatched.logits[:, :early], logits], axis=1)
    )


def _is_simple(layout: Layout, cell: Cell) -> bool:
    return len(cell.edits) == 1 and len(places_of(layout, cell.edits[0])) == 1


def _entrance(layout: Layout, layer: int) -> Site:
    """Where rows enter a block. The first may tell of `embed` before it tells of `resid_pre`."""
    return Site("resid_pre", layer) if layer or layout.family.embed else Site("embed")


def _nothing(value: mx.array, now: ForwardPass) -> None:
    """Reads nothing."""
