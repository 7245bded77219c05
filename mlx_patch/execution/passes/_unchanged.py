"""`Watch`: which cells change nothing, seen as the unpatched run passes by their places.

Where each edit of a cell gives back, bit for bit, what stands there, the patched run is the unpatched one. In a causal
model this is so of every patch between two prompts that lies before the first token in which they differ.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import mlx.core as mx
import numpy as np

from mlx_patch.architectures import Layout
from mlx_patch.engine import ForwardPass, Hook, Phase
from mlx_patch.execution.cells import Cell, Together, goes_upwards, may_go_together, never_picked, places_of
from mlx_patch.interventions import BY_KEY, Apply, Chain, Edit, Pick, Span
from mlx_patch.sites import SITES, Site

_UNSIGNED = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32, 8: mx.uint64}


@dataclass(frozen=True, eq=False)
class _Place:
    """Cells that are compared together at one site: each with its edits there, in order."""

    site: Site
    cells: list[int]
    edits: list[tuple[Edit, ...]]


@dataclass(eq=False)
class Watch:
    """The cells of a group of prompts, compared with what stands at their places.

    Attributes:
        layout: The model's layout.
        length: The positions of the prompts.
        candidates: The numbers of the cells that may change nothing.
        places: Where to compare.
        changes: What each comparison found: a function that says which cells change something.
    """

    layout: Layout
    length: int
    candidates: set[int]
    places: list[_Place]
    changes: list[tuple[mx.array, Callable[[np.ndarray], set[int]]]] = field(default_factory=list)

    def hooks(self, begin: int, end: int) -> list[Hook]:
        """The hooks that compare during a pass over some positions."""
        span = Span(begin, end - begin, self.length, pieces=end - begin < self.length)
        hooks = []
        for place in self.places:
            action = partial(self._compare, place, span)
            hooks.append(Hook(self.layout.place(place.site), action, Phase.CAPTURE))
        return hooks

    def arrays(self) -> list[mx.array]:
        """What is still to be computed."""
        return [changed for changed, _ in self.changes]

    def unchanged(self) -> set[int]:
        """The numbers of the cells that change nothing, once the unpatched run is done."""
        remaining = set(self.candidates)
        for changed, cells_that_change in self.changes:
            remaining -= cells_that_change(np.array(changed))
        return remaining

    def _compare(self, place: _Place, span: Span, value: mx.array, forward_pass: ForwardPass) -> None:
        """Note where edits would change an activation."""
        if may_go_together(place.edits[0]):
            together = Together(place.site, [edits[0] for edits in place.edits], span)
            new = together.apply(value)
            if new is None:
                return
            picks = together.picks(value.shape)
            changed = mx.any(_bits(new) != _bits(value), axis=never_picked(picks), keepdims=True)
            self.changes.append((changed, partial(_cells_picking, place.cells, picks)))
            return
        [cell], [edits] = place.cells, place.edits
        new = value
        for edit in edits:
            edited = edit.apply(new, place.site, span)
            if edited is not None:
                new = edited
        changed = mx.any(_bits(new) != _bits(value))
        self.changes.append((changed, partial(_the_cell, cell)))


def _bits(array: mx.array) -> mx.array:
    """The bits of numbers, to tell 0 from -0, and one NaN from another."""
    return array.view(_UNSIGNED[array.dtype.size])


def _cells_picking(cells: Sequence[int], picks: Sequence[tuple[Pick, ...]], changed: np.ndarray) -> set[int]:
    """The cells that pick something that changes."""
    changing = set()
    for cell, pick in zip(cells, picks, strict=True):
        picked = changed
        for axis, indices in enumerate(pick):
            if indices is not None:
                picked = np.take(picked, indices, axis=axis)
        if picked.any():
            changing.add(cell)
    return changing


def _the_cell(cell: int, changed: np.ndarray) -> set[int]:
    if changed.any():
        return {cell}
    return set()


def watch_of(layout: Layout, cells: Sequence[Cell], length: int, is_cut: bool) -> Watch:
    """The watch over some cells.

    Functions of the caller are not called once more than a sweep needs: cells with one always run.

    Args:
        layout: The model's layout.
        cells: Every cell of a group of prompts.
        length: The positions of the prompts.
        is_cut: Whether the unpatched run is cut into several passes.
    """
    prompt = Span(0, length, length)
    candidates = set()
    for number, cell in enumerate(cells):
        edits = [part for edit in cell.edits for part in edit.parts]
        if all(_may_be_compared(edit, prompt, is_cut) for edit in edits):
            candidates.add(number)
    by_intervention: dict[tuple[Site, int], _Place] = {}
    alone: list[_Place] = []
    for number in sorted(candidates):
        for site, edits in _edits_by_site(layout, cells[number]).items():
            if may_go_together(edits):
                place = by_intervention.setdefault((site, id(edits[0].intervention)), _Place(site, [], []))
                place.cells.append(number)
                place.edits.append(edits)
            else:
                alone.append(_Place(site, [number], [edits]))
    return Watch(layout, length, candidates, [*by_intervention.values(), *alone])


def _may_be_compared(edit: Edit, prompt: Span, is_cut: bool) -> bool:
    """Whether an edit is at a named site, is no function of the caller, and works position by position if need be."""
    if edit.site not in SITES or edit.site == "expert_weights" or _calls_a_function(edit.intervention):
        return False
    if not is_cut:
        return True
    if edit.site in BY_KEY:
        return False
    if edit.pos is None:
        return edit.intervention.in_pieces
    return edit.intervention.by_position and goes_upwards(edit, prompt)


def _calls_a_function(intervention: object) -> bool:
    if isinstance(intervention, Chain):
        return any(map(_calls_a_function, intervention.steps))
    return isinstance(intervention, Apply)


def _edits_by_site(layout: Layout, cell: Cell) -> dict[Site, tuple[Edit, ...]]:
    by_site: dict[Site, tuple[Edit, ...]] = {}
    for edit in cell.edits:
        for site in places_of(layout, edit):
            by_site[site] = (*by_site.get(site, ()), edit)
    return by_site
