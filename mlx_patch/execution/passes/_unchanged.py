"""`Watch`: which cells change nothing, seen as the unpatched run passes by their places.

Where each edit of a cell gives back, bit for bit, what stands there, the patched run is the unpatched one. In a causal
model this is so of every patch between two prompts that lies before the first token in which they differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import mlx.core as mx
import numpy as np

from mlx_patch.architectures import Layout
from mlx_patch.engine import ForwardPass, Hook, Phase
from mlx_patch.execution.cells import (
    Cell,
    Together,
    edits_by_site,
    goes_upwards,
    never_picked,
    take_picked,
    together_at,
)
from mlx_patch.interventions import BY_KEY, Apply, Chain, Edit, Pick, Span
from mlx_patch.sites import SITES

_UNSIGNED = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32, 8: mx.uint64}


@dataclass(eq=False)
class Watch:
    """The cells of a group of prompts, compared with what stands at their places.

    Attributes:
        layout: The model's layout.
        length: The positions of the prompts.
        candidates: The numbers of the cells that may change nothing.
        groups: The cells that are compared at once, at each site.
        changes: For each comparison the entries that change, the group, and what each of its cells picks of them.
    """

    layout: Layout
    length: int
    candidates: set[int]
    groups: list[Together]
    changes: list[tuple[mx.array, Together, list[tuple[Pick, ...]]]] = field(default_factory=list)

    def hooks(self, begin: int, end: int) -> list[Hook]:
        """The hooks that compare during a pass over some positions."""
        span = Span(begin, end - begin, self.length, pieces=end - begin < self.length)
        hooks = []
        for group in self.groups:
            action = partial(self._compare, group, span)
            hooks.append(Hook(self.layout.place(group.site), action, Phase.CAPTURE))
        return hooks

    def arrays(self) -> list[mx.array]:
        """What is still to be computed."""
        return [changed for changed, _, _ in self.changes]

    def unchanged(self) -> set[int]:
        """The numbers of the cells that change nothing, once the unpatched run is done."""
        remaining = set(self.candidates)
        for changed, group, picks in self.changes:
            entries = np.array(changed)
            for member, pick in zip(group.members, picks, strict=True):
                if take_picked(entries, pick).any():
                    remaining.discard(member.cell)
        return remaining

    def _compare(self, group: Together, span: Span, value: mx.array, forward_pass: ForwardPass) -> None:
        """Note where cells would change an activation."""
        new, picks = group.apply(value, span), group.picks(value.shape, span)
        changed = mx.any(_bits(new) != _bits(value), axis=never_picked(picks), keepdims=True)
        self.changes.append((changed, group, picks))


def _bits(array: mx.array) -> mx.array:
    """The bits of numbers, to tell 0 from -0, and one NaN from another."""
    return array.view(_UNSIGNED[array.dtype.size])


def watch_of(layout: Layout, cells: Sequence[Cell], edges: Sequence[int]) -> Watch:
    """The watch over some cells.

    Functions of the caller are not called once more than a sweep needs: cells with one always run.

    Args:
        layout: The model's layout.
        cells: Every cell of a group of prompts.
        edges: The positions at which the passes of the unpatched run begin, and the end of the prompts.
    """
    length = edges[-1]
    passes = [range(begin, end) for begin, end in pairwise(edges)]
    candidates = set()
    for number, cell in enumerate(cells):
        edits = [member for edit in cell.edits for member in edit.parts]
        if all(_may_be_compared(edit, length, passes) for edit in edits):
            candidates.add(number)
    by_site = edits_by_site(layout, ((number, cells[number]) for number in sorted(candidates)))
    groups = [group for site, members in by_site.items() for group in together_at(site, members)]
    return Watch(layout, length, candidates, groups)


def _may_be_compared(edit: Edit, length: int, passes: Sequence[range]) -> bool:
    """Whether an edit is at a named site, is no function of the caller, and makes its change in these passes."""
    if edit.site not in SITES or edit.site == "expert_weights" or _calls_a_function(edit.intervention):
        return False
    if len(passes) == 1:
        return True
    if edit.site in BY_KEY:
        return False
    if edit.intervention.in_pieces:
        return True
    if edit.pos is None or not edit.intervention.by_position:
        return False
    prompt = Span(0, length, length)
    positions = set(prompt.local(edit.pos))
    return goes_upwards(edit, prompt) and any(positions.issubset(pass_) for pass_ in passes)


def _calls_a_function(intervention: object) -> bool:
    if isinstance(intervention, Chain):
        return any(map(_calls_a_function, intervention.steps))
    return isinstance(intervention, Apply)
