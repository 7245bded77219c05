"""`CellRows`: the rows of the batch that each cell of a pass has, and the edits made in them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import mlx.core as mx

from mlx_patch.architectures import Layout, Place
from mlx_patch.engine import Action, ForwardPass
from mlx_patch.errors import EditNotUsedError, ShapeError
from mlx_patch.execution.cells import Cell
from mlx_patch.execution.passes._edit_order import edits_after_entry, order_edits
from mlx_patch.interventions import Edit, Span
from mlx_patch.sites import Site


@dataclass
class CellRows:
    """The rows of a pass: cell after cell, each with all rows of the prompts.

    Attributes:
        layout: The model's layout.
        cells: In the order in which their rows enter.
        entries: The block at which each enters.
        batch: The rows of one cell.
        length: The positions of the prompts.
        height: The rows of the batch, as it grows.
        in_pieces: Whether the positions run piece by piece.
        grow: Whether rows enter at the first block that their cell changes, with the stream of the unpatched run.
        used: Which edits have acted: the index of a cell, and the id of an edit in it.
    """

    layout: Layout
    cells: Sequence[Cell]
    entries: Sequence[int]
    batch: int
    length: int
    height: int = 0
    in_pieces: bool = False
    grow: bool = True
    used: set[tuple[int, int]] = field(default_factory=set)

    def of_cell(self, cell: int) -> slice:
        """The rows of the batch that a cell has."""
        return slice(cell * self.batch, (cell + 1) * self.batch)

    def actions(self) -> list[tuple[Place, Action]]:
        """One action per site, which makes the edits of all cells there."""
        site_edits = order_edits(self.layout, self.cells, self.entries, self.grow)
        return [(self.layout.place(site), partial(self.act, site, edits)) for site, edits in site_edits]

    def edits_after_entry(self) -> Iterator[tuple[Site, Edit]]:
        """The edits of all cells with each of their sites, but for those that act before the rows of the cell enter."""
        for cell, entry in zip(self.cells, self.entries, strict=True):
            yield from edits_after_entry(self.layout, cell, entry, self.grow)

    def act(
        self, site: Site, edits: Mapping[int, Sequence[Edit]], value: mx.array, forward_pass: ForwardPass
    ) -> mx.array:
        """The activation with the edits of each cell made in its rows.

        Raises:
            ShapeError: The first axis of the activation does not hold the rows of the batch.
        """
        if value.shape[:1] != (self.height,):
            raise ShapeError(
                f"`executor` must be 'reference' for edits at {site}, whose first axis does not hold the rows of the "
                f"batch. Got shape {value.shape} with {self.height} rows. Use 'reference', or choose a named site."
            )
        pieces = []
        n_copied = 0  # rows of the batch that are in `pieces`
        for cell in sorted(edits):
            rows = self.of_cell(cell)
            cell_value = value[rows]
            for edit in edits[cell]:
                cell_value = self.apply_edit(cell, edit, cell_value, site, forward_pass)
            if rows.start > n_copied:
                pieces.append(value[n_copied : rows.start])
            pieces.append(cell_value)
            n_copied = rows.stop
        if n_copied < value.shape[0]:
            pieces.append(value[n_copied:])
        return mx.concatenate(pieces, axis=0)

    def apply_edit(self, cell: int, edit: Edit, value: mx.array, site: Site, forward_pass: ForwardPass) -> mx.array:
        """The rows of a cell after an edit, which is noted as used unless it made none of its positions here."""
        span = Span(forward_pass.offset, forward_pass.length, self.length, pieces=self.in_pieces)
        edited_value = edit.apply(value, site, span)
        if edited_value is None:
            return value
        self.used.add((cell, id(edit)))
        return edited_value

    def refuse_unused_edits(self) -> None:
        """Refuse edits that have not acted once the pass has run; the unpatched run refuses standing ones.

        Raises:
            EditNotUsedError: None of the positions of an edit was computed.
        """
        for index, cell in enumerate(self.cells):
            for edit in cell.edits:
                if (index, id(edit)) not in self.used:
                    raise EditNotUsedError(
                        f"`edits` must each act. {edit!r} did not: none of its positions was computed. "
                        "Choose positions of this prompt."
                    )
