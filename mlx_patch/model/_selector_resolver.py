"""From edits and choices as callers write them to positions and rows, once the tokens of a run are known."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx

from mlx_patch.errors import SelectionError
from mlx_patch.interventions import Edit, PositionChoice, prompt_edits, row_edits
from mlx_patch.model._hooks import as_edits
from mlx_patch.positions import Pieces, Selector


class SelectorResolver:
    """What resolves selectors against the prompts of a run, row by row, and joins the edits of its rows.

    Args:
        tokens: Token ids. Shape `(batch, pos)`.
        tokenizer: The model's tokenizer, if there is one.
        offset: The absolute position of the first of the tokens: what a prompt cache holds. Nobody knows what is in it,
            so that selectors find what is in the new tokens.
        alone: Whether rows are prompts of a list, each of which is edited as if it ran by itself; otherwise the rows
            are a batch, which an edit sees as a whole.
    """

    def __init__(self, tokens: mx.array, tokenizer: Any, offset: int = 0, alone: bool = False):
        self.tokens, self.tokenizer, self.offset = tokens, tokenizer, offset
        self.alone = alone and tokens.shape[0] > 1
        self._prompts: dict[int, Pieces] = {}

    def _prompt(self, row: int) -> Pieces:
        if row not in self._prompts:
            self._prompts[row] = Pieces(tuple(int(token) for token in self.tokens[row].tolist()), self.tokenizer)  # pyright: ignore
        return self._prompts[row]

    def edits(self, edits: Iterable[Edit]) -> tuple[Edit, ...]:
        """The edits at positions in place of selectors, one for each; where rows differ it has parts.

        Raises:
            SelectionError: A selector finds nothing, or more than it may.
            TokenError: It goes by text, and there is no tokenizer.
        """
        size, written = self.tokens.shape[0], as_edits(edits)
        placed = tuple(self.join([edit] * size) for edit in written)
        return written if all(edit is before for edit, before in zip(placed, written, strict=True)) else placed

    def join(self, edits: Sequence[Edit]) -> Edit:
        """One edit, of an edit for each row; all of one site.

        Raises:
            SelectionError, TokenError: As `edits` says.
        """
        same = all(edit is edits[0] for edit in edits)
        if same and not isinstance(edits[0].pos, Selector) and (not self.alone or edits[0].intervention.by_row):
            return edits[0]
        return self._of_prompts(edits) if self.alone else self._of_batch(edits, same)

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

    def _of_prompts(self, edits: Sequence[Edit]) -> Edit:
        """An edit of each prompt, which it alone sees."""
        members, rows = self._grouped(edits, range(len(edits)))
        if len(members) == 1 and members[0].intervention.by_row:
            return members[0]
        return prompt_edits(members, rows, len(edits))

    def _of_batch(self, edits: Sequence[Edit], same: bool) -> Edit:
        """One edit over the batch, whose rows may choose other positions, or have interventions of their own."""
        acting = [row for row, edit in enumerate(edits) if self._acts_in(edit, row)]
        members, rows = self._grouped(edits, acting)
        if same and len(members) == 1:
            return members[0]
        return row_edits(members, rows, len(edits))

    def _grouped(self, edits: Sequence[Edit], rows: Iterable[int]) -> tuple[list[Edit], list[list[int]]]:
        """The edits at positions, each once, and the rows of each."""
        members: dict[tuple[int, object], tuple[Edit, list[int]]] = {}
        for row in rows:
            edit = edits[row]
            pos = self._find(edit.pos, row) if isinstance(edit.pos, Selector) else None
            placed = edit if pos is None else replace(edit, pos=pos)
            members.setdefault((id(edit), pos), (placed, []))[1].append(row)
        return [edit for edit, _ in members.values()], [of_edit for _, of_edit in members.values()]

    def _acts_in(self, edit: Edit, row: int) -> bool:
        return edit.batch is None or row in map(self._row, edit.batch)

    def _row(self, row: int) -> int:
        size = self.tokens.shape[0]
        if not -size <= row < size:
            raise SelectionError(f"`batch` must lie in {-size} to {size - 1}. Got {row}.")
        return row % size

    def _find(self, selector: Selector, row: int) -> tuple[int, ...]:
        return tuple(self.offset + position for position in selector.find(self._prompt(row)))
