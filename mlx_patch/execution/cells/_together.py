"""`Together`: cells whose change of one activation is computed at once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from mlx_patch.architectures import Layout
from mlx_patch.execution.cells._cell import Cell, places_of
from mlx_patch.interventions import Edit, Pick, Span
from mlx_patch.sites import Site


@dataclass(frozen=True, eq=False)
class EditsAtSite:
    """What one cell does at one site.

    Attributes:
        cell: The number of the cell.
        edits: Its edits there, in order.
    """

    cell: int
    edits: tuple[Edit, ...]

    def apply(self, activation: mx.array, site: Site, span: Span) -> mx.array:
        """The activation after the edits, one after the other; itself where none of their positions is in this pass."""
        for edit in self.edits:
            edited = edit.apply(activation, site, span)
            if edited is not None:
                activation = edited
        return activation


def edits_by_site(layout: Layout, cells: Iterable[tuple[int, Cell]]) -> dict[Site, list[EditsAtSite]]:
    """What each cell does at each site that any cell edits.

    Args:
        layout: The model's layout.
        cells: The cells, each with its number.
    """
    by_site: dict[Site, list[EditsAtSite]] = {}
    for number, cell in cells:
        edits_of_cell: dict[Site, list[Edit]] = {}
        for edit in cell.edits:
            for site in places_of(layout, edit):
                edits_of_cell.setdefault(site, []).append(edit)
        for site, edits in edits_of_cell.items():
            by_site.setdefault(site, []).append(EditsAtSite(number, tuple(edits)))
    return by_site


@dataclass(frozen=True, eq=False)
class Together:
    """Cells that make the same change at different entries of one activation; or one cell of any other kind.

    Attributes:
        site: The site.
        members: What the cells do there.
    """

    site: Site
    members: list[EditsAtSite]

    def apply(self, activation: mx.array, span: Span) -> mx.array:
        """The activation changed wherever a cell changes it; itself where none of the positions is in this pass."""
        edits = [member.edits[0] for member in self.members]
        if len(edits) == 1:
            return self.members[0].apply(activation, self.site, span)
        everywhere = Edit(edits[0].intervention, edits[0].site, edits[0].layer)
        if all(edit.pos is not None for edit in edits):
            positions = {span.offset + index for edit in edits for index in span.local(edit.pos or ())}
            if not positions:
                return activation
            everywhere = replace(everywhere, pos=tuple(sorted(positions)))
        return EditsAtSite(0, (everywhere,)).apply(activation, self.site, span)

    def picks(self, shape: tuple[int, ...], span: Span) -> list[tuple[Pick, ...]]:
        """What each cell may change of an activation, along each axis; None is all."""
        if not may_go_together(self.members[0].edits):
            return [(None,) * len(shape)]
        return [member.edits[0].picks(shape, self.site, span) for member in self.members]


def may_go_together(edits: Sequence[Edit]) -> bool:
    """Whether what a cell does at a site is the same at an entry, whichever others are edited beside it."""
    return len(edits) == 1 and type(edits[0]) is Edit and edits[0].intervention.elementwise


def together_at(site: Site, members: Sequence[EditsAtSite]) -> list[Together]:
    """The cells that edit a site, in as few groups as can be."""
    by_intervention: dict[int, Together] = {}
    one_by_one: list[Together] = []
    for member in members:
        if may_go_together(member.edits):
            group = by_intervention.setdefault(id(member.edits[0].intervention), Together(site, []))
            group.members.append(member)
        else:
            one_by_one.append(Together(site, [member]))
    return [*by_intervention.values(), *one_by_one]


def never_picked(picks: Sequence[tuple[Pick, ...]]) -> list[int]:
    """The axes behind the batch's along which no cell picks anything."""
    return [axis for axis in range(1, len(picks[0])) if all(pick[axis] is None for pick in picks)]


def take_picked(array: np.ndarray, picks: Sequence[Pick], first_axis: int = 0) -> np.ndarray:
    """The picked part of an array: its axes from `first_axis` on are those of the picks."""
    for axis, indices in enumerate(picks, start=first_axis):
        if indices is not None:
            array = np.take(array, indices, axis=axis)
    return array
