"""From selectors to positions: edits and choices, once the tokens of a run are known."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import mlx.core as mx

from mlx_patch.errors import SelectionError
from mlx_patch.interventions import Edit, PositionChoice
from mlx_patch.model._hooks import as_edits
from mlx_patch.positions import Pieces, Selector


class Placing:
    """What resolves selectors against the prompts of a run, row by row.

    Args:
        tokens: The prompts. Shape `(batch, pos)`.
        tokenizer: Their tokenizer, if there is one.
        offset: The absolute position of the first of the tokens: what a prompt cache holds. Nobody knows what is in it,
            so that selectors find what is in the new tokens.
    """

    def __init__(self, tokens: mx.array, tokenizer: Any, offset: int = 0):
        self.tokens, self.tokenizer, self.offset = tokens, tokenizer, offset
        self._prompts: dict[int, Pieces] = {}

    def _prompt(self, row: int) -> Pieces:
        if row not in self._prompts:
            self._prompts[row] = Pieces(tuple(int(token) for token in self.tokens[row].tolist()), self.tokenizer)  # pyright: ignore
        return self._prompts[row]

    def edits(self, edits: Iterable[Edit]) -> tuple[Edit, ...]:
        """The edits with positions in place of selectors; where rows have other positions, an edit for each.

        Raises:
            SelectionError: A selector finds nothing, or more than it may.
            TokenError: It goes by text, and there is no tokenizer.
        """
        given = as_edits(edits)
        if not any(isinstance(edit.pos, Selector) for edit in given):
            return given
        return tuple(placed for edit in given for placed in self._edit(edit))

    def choice(self, name: str, pos: PositionChoice) -> PositionChoice:
        """A choice of positions that is the same in all rows.

        Raises:
            SelectionError: It differs from row to row, or as the selector says.
        """
        if not isinstance(pos, Selector):
            return pos
        found = {self._find(pos, row): row for row in range(self.tokens.shape[0])}
        if len(found) > 1:
            (one, first), (other, second) = list(found.items())[:2]
            raise SelectionError(
                f"`{name}` must be the same positions in every row. Got {pos!r}: {list(one)} in row {first}, "
                f"{list(other)} in row {second}. Run the prompts one by one."
            )
        return next(iter(found))

    def _edit(self, edit: Edit) -> Iterator[Edit]:
        if not isinstance(edit.pos, Selector):
            yield edit
            return
        size = self.tokens.shape[0]
        rows = range(size) if edit.batch is None else [self._row(row) for row in edit.batch]
        by_positions: dict[tuple[int, ...], list[int]] = {}
        for row in rows:
            by_positions.setdefault(self._find(edit.pos, row), []).append(row)
        for positions, own in by_positions.items():
            batch = edit.batch if len(by_positions) == 1 else tuple(own)
            yield replace(edit, pos=positions, batch=batch)

    def _row(self, row: int) -> int:
        size = self.tokens.shape[0]
        if not -size <= row < size:
            raise SelectionError(f"`batch` must lie in {-size} to {size - 1}. Got {row}.")
        return row % size

    def _find(self, selector: Selector, row: int) -> tuple[int, ...]:
        return tuple(self.offset + position for position in selector.find(self._prompt(row)))
