"""`PassRun`: many cells in one forward pass, each in rows of its own."""

from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from mlx_patch.architectures import Layout
from mlx_patch.engine import ForwardPass, Hook, Phase, RestoredPast, repeated
from mlx_patch.execution.cells import Cell, edits_before_entry, places_of, since, unpatched_site
from mlx_patch.execution.passes._cell_rows import CellRows
from mlx_patch.execution.passes._forward import forward
from mlx_patch.execution.passes._last_block import mlp_hooks
from mlx_patch.execution.passes._splitting import split_points, works_in_pieces
from mlx_patch.execution.passes._tasks import FINAL_NORM, PassTask
from mlx_patch.execution.passes._unpatched import UnpatchedRun
from mlx_patch.execution.readouts import Readout
from mlx_patch.interventions import Span
from mlx_patch.model import action_hooks, capture_hooks, refuse_unused, slice_hook
from mlx_patch.sites import Site


@dataclass
class PassRun:
    """One pass over the rows of its cells.

    Attributes:
        layout: The model's layout.
        tokens: The whole prompts. Shape `(batch, pos)`.
        start: The first position that is computed.
        rows: The rows of the cells.
        piece: Positions that run at once, at most, where the cells and the model allow more than one piece.
        token_layers: What went through the blocks, counted as it goes.
        stages: What enters each block that all cells need, with the token-layers before it: to see how far it is.
    """

    layout: Layout
    tokens: mx.array
    start: int
    rows: CellRows
    piece: int
    token_layers: int = 0
    stages: list[tuple[int, mx.array]] = field(default_factory=list)

    @classmethod
    def of(cls, task: PassTask) -> "PassRun":
        """The run of one pass of a plan."""
        batch, length = task.tokens.shape
        cells = [since(task.layout, cell, task.shape.start, length) for cell in task.cells]
        rows = CellRows(task.layout, cells, task.shape.entries, batch, length)
        return cls(task.layout, task.tokens, task.shape.start, rows, task.piece, stages=task.stages)

    @property
    def in_pieces(self) -> bool:
        """Whether the positions run piece by piece."""
        return self.rows.in_pieces

    def run(self, unpatched: UnpatchedRun, readout: Readout, grow: bool) -> mx.array:
        """Every metric of every cell, unevaluated. Shape `(cell, metric, batch)`."""
        layout = self.layout
        self.rows.grow = grow
        pass_readout = readout.since(self.start)
        edges = (self.start, *self._cuts(pass_readout), self.rows.length)
        self.rows.in_pieces = len(edges) > 2
        n_copies = 1 if grow else len(self.rows.cells)
        past = self._open_past(unpatched, n_copies)
        caches = self._caches(past)
        hooks = self._growing_hooks(unpatched, past) if grow else self._counting_hooks()
        hooks += action_hooks(layout, self.rows.actions())
        last_piece_hooks = self._reading_hooks(pass_readout, len(edges) - 1)
        normed: dict[Site, mx.array] = {}
        if unpatched.logits_of is not None and pass_readout.at == readout.at:
            last_piece_hooks += capture_hooks(layout, (FINAL_NORM,), readout.at, normed)
        sharing_hooks = []
        if past is not None:
            sharing_hooks = [Hook(place, _read_nothing, Phase.SHARE) for place in layout.attentions()]
        n_rows = n_copies * self.rows.batch
        tokens = repeated(self.tokens, n_rows)
        logits = tokens
        for begin, end in pairwise(edges):
            self.rows.height = n_rows
            piece_hooks = [*hooks, *sharing_hooks]
            if end == self.rows.length:
                piece_hooks += last_piece_hooks
            logits = forward(layout, tokens[:, begin:end], piece_hooks, caches)
        refuse_unused([*hooks, *last_piece_hooks])
        self.rows.refuse_unused_edits()
        if unpatched.logits_of is not None and normed:  # MLX is lazy: the logits above are never computed
            return self._measure_tokens(readout, unpatched.logits_of(normed[FINAL_NORM]))
        n_earlier = len(readout.at or ()) - len(pass_readout.at or ())
        return mx.stack(self._measure(readout, unpatched, n_earlier, logits))

    def _measure_tokens(self, readout: Readout, logits: mx.array) -> mx.array:
        """The metrics of all cells at once, from logits of the tokens that they read. Shape `(cell, metric, batch)`."""
        n_cells, n_rows = len(self.rows.cells), self.rows.batch
        few_tokens = readout.on_tokens(readout.tokens() or (), n_rows, n_cells)
        values = few_tokens.measure(logits, self.rows.length)
        return values.reshape(-1, n_cells, n_rows).swapaxes(0, 1)

    def _measure(self, readout: Readout, unpatched: UnpatchedRun, n_earlier: int, logits: mx.array) -> list[mx.array]:
        """The metrics of each cell. Shape `(metric, batch)` each."""
        logits_by_cell = [logits[self.rows.of_cell(index)] for index in range(len(self.rows.cells))]
        logits_by_cell = [_with_earlier(unpatched, n_earlier, cell_logits) for cell_logits in logits_by_cell]
        return [readout.measure(cell_logits, self.rows.length) for cell_logits in logits_by_cell]

    def _cuts(self, readout: Readout) -> tuple[int, ...]:
        """The positions at which the pass is split into pieces; none unless every edit works in pieces."""
        cuts = split_points(self.layout, readout, self.start, self.rows.length, self.piece)
        if not cuts:
            return ()
        first_piece = Span(self.start, cuts[0] - self.start, self.rows.length, pieces=True)
        edits = (edit for cell in self.rows.cells for edit in cell.run_edits)
        if all(works_in_pieces(edit, first_piece) for edit in edits):
            return cuts
        return ()

    def _open_past(self, unpatched: UnpatchedRun, n_copies: int) -> RestoredPast | None:
        """The unpatched run's past before this pass, for so many copies of the prompts; None from position 0 on."""
        if self.start == 0:
            return None
        past = unpatched.past[self.start].opened()
        past.rows(n_copies)
        return past

    def _caches(self, past: RestoredPast | None) -> list[Any] | None:
        """The prompt cache that the pass runs over; None where it needs none."""
        if past is not None:
            return past.caches
        if self.in_pieces or self.layout.family.cached:
            return make_prompt_cache(self.layout.model)
        return None

    def _reading_hooks(self, readout: Readout, n_pieces: int) -> list[Hook]:
        """The hooks of the last piece, which compute only what metrics read."""
        if readout.at is None:
            return []
        hooks = [slice_hook(self.layout, readout.at)]
        if n_pieces == 1:  # else the last piece begins at the first position that is read, and there is less to save
            hooks += mlp_hooks(self.layout, readout.at, self.rows.length, self.rows.edits_after_entry())
        return hooks

    def _counting_hooks(self) -> list[Hook]:
        """The hooks that count token-layers, where all rows run from the first block on."""

        def count(value: mx.array, forward_pass: ForwardPass) -> None:
            self._add_stage(value)
            self.token_layers += value.shape[0] * forward_pass.length

        places = [self.layout.place(Site("resid_pre", layer)) for layer in range(len(self.layout.blocks))]
        return [Hook(place, count, Phase.GROW) for place in places]

    def _growing_hooks(self, unpatched: UnpatchedRun, past: RestoredPast | None) -> list[Hook]:
        """The hooks that let rows enter at their block, and count. Behind the last one they enter after its edits."""
        n_blocks = len(self.layout.blocks)
        hooks = []
        if past is not None:
            first_place = self.layout.place(_entrance(self.layout, 0))
            hooks.append(Hook(first_place, partial(self._settle, past), Phase.GROW))
        for layer in range(min(self.rows.entries), n_blocks):
            place = self.layout.place(_entrance(self.layout, layer))
            hooks.append(Hook(place, partial(self._grow, layer, unpatched, past), Phase.GROW))
        last_place = self.layout.place(Site("resid_post", n_blocks - 1))
        hooks.append(Hook(last_place, partial(self._grow, n_blocks, unpatched, past), Phase.CAPTURE))
        return hooks

    def _add_stage(self, value: mx.array) -> None:
        """Note what enters a block, if it is computed in any case: a second edit may replace it as a whole."""
        if self.token_layers and self._has_stages:
            self.stages.append((self.token_layers, value))

    @cached_property
    def _has_stages(self) -> bool:
        return len(self.rows.cells) > 1 and all(_has_one_site(self.layout, cell) for cell in self.rows.cells)

    def _settle(self, past: RestoredPast, value: mx.array, forward_pass: ForwardPass) -> None:
        if forward_pass.offset == self.start:
            past.settle()

    def _grow(
        self,
        layer: int,
        unpatched: UnpatchedRun,
        past: RestoredPast | None,
        value: mx.array,
        forward_pass: ForwardPass,
    ) -> mx.array | None:
        """The stream with the rows that enter at a block below those that are there; None where none enters."""
        n_blocks = len(self.layout.blocks)
        entering = [index for index, entry in enumerate(self.rows.entries) if entry == layer]
        # Below the first entry the batch holds the prompts once, as a placeholder that is never computed. The rows
        # that enter first replace it; those that enter later are put below the rows that are there.
        earlier_rows = []
        if layer != self.rows.entries[0]:
            earlier_rows = [value]
            if layer < n_blocks:
                self._add_stage(value)
        stream = value
        if entering:
            new_rows = [self._entering_rows(index, unpatched, value, forward_pass) for index in entering]
            stream = mx.concatenate([*earlier_rows, *new_rows], axis=0)
        self.rows.height = stream.shape[0]
        if layer < n_blocks:
            self.token_layers += stream.shape[0] * forward_pass.length
        if not entering:
            return None
        if past is not None and forward_pass.offset == self.start:
            past.rows(stream.shape[0] // self.rows.batch)
        return stream

    def _entering_rows(self, cell: int, unpatched: UnpatchedRun, like: mx.array, forward_pass: ForwardPass) -> mx.array:
        """What the rows of a cell enter with: the unpatched stream, after the edits that act before they enter."""
        layer = self.rows.entries[cell]
        edits = edits_before_entry(self.rows.cells[cell], self.layout, layer)
        if not edits:
            return self._unpatched_stream(unpatched_site(self.layout, layer), unpatched, like, forward_pass)
        site = Site("resid_post", layer - 1)
        stream = self._unpatched_stream(site, unpatched, like, forward_pass)
        for edit in edits:
            stream = self.rows.apply_edit(cell, edit, stream, site, forward_pass)
        if layer == len(self.layout.blocks):
            return stream
        return self.layout.between(layer, stream)

    def _unpatched_stream(
        self, site: Site, unpatched: UnpatchedRun, like: mx.array, forward_pass: ForwardPass
    ) -> mx.array:
        """The unpatched stream at the positions of a forward pass; zeros where an edit replaces all of it."""
        if site not in unpatched.stream:  # nothing of the zeros is ever computed
            return mx.zeros((self.rows.batch, *like.shape[1:]), like.dtype)
        begin = forward_pass.offset - unpatched.first
        return unpatched.stream[site][:, begin : begin + forward_pass.length]


def _with_earlier(unpatched: UnpatchedRun, n_earlier: int, logits: mx.array) -> mx.array:
    """A cell's logits behind the unpatched ones of positions that metrics read before the pass begins."""
    if n_earlier == 0 or unpatched.logits is None:
        return logits
    return mx.concatenate([unpatched.logits[:, :n_earlier], logits], axis=1)


def _has_one_site(layout: Layout, cell: Cell) -> bool:
    return len(cell.run_edits) == 1 and len(places_of(layout, cell.edits[0])) == 1


def _entrance(layout: Layout, layer: int) -> Site:
    """Where rows enter a block. In the first, `embed` may be passed before `resid_pre` is."""
    if layer == 0 and not layout.family.embed:
        return Site("embed")
    return Site("resid_pre", layer)


def _read_nothing(value: mx.array, forward_pass: ForwardPass) -> None:
    """Returns nothing: the hook only marks its place."""
