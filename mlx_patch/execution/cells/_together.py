"""`Together`: cells that do the same at different entries of one activation, whose change is computed once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from mlx_patch.interventions import Edit, Pick, Span
from mlx_patch.sites import Site


def may_go_together(edits: Sequence[Edit]) -> bool:
    """Whether what a cell does at a site is the same at an entry, whichever others are edited beside it."""
    return len(edits) == 1 and type(edits[0]) is Edit and edits[0].intervention.elementwise


@dataclass(frozen=True, eq=False)
class Together:
    """Edits of one intervention at one site, each of a cell.

    Attributes:
        site: The site.
        edits: The edits.
        span: The positions of the activation.
    """

    site: Site
    edits: Sequence[Edit]
    span: Span

    def apply(self, activation: mx.array) -> mx.array | None:
        """The activation with the edit made wherever one of the edits is; None where none of the positions is here."""
        everywhere = Edit(self.edits[0].intervention, self.edits[0].site, self.edits[0].layer)
        if any(edit.pos is None for edit in self.edits):
            return everywhere.apply(activation, self.site, self.span)
        positions: set[int] = set()
        for edit in self.edits:
            positions.update(self.span.offset + index for index in self.span.local(edit.pos or ()))
        if not positions:
            return None
        return replace(everywhere, pos=tuple(sorted(positions))).apply(activation, self.site, self.span)

    def picks(self, shape: tuple[int, ...]) -> list[tuple[Pick, ...]]:
        """What each edit picks of an activation, along each axis; None is all."""
        return [edit.picks(shape, self.site, self.span) for edit in self.edits]


def never_picked(picks: Sequence[tuple[Pick, ...]]) -> list[int]:
    """The axes behind the batch's along which no edit picks anything."""
    return [axis for axis in range(1, len(picks[0])) if all(pick[axis] is None for pick in picks)]
