"""`SelectorResolver`: turns selectors in edits and choices into positions, once the tokens of a run are known."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

import mlx.core as mx

from mlx_patch.errors import SelectionError, shown
from mlx_patch.interventions import Edit, PositionChoice, prompt_edits, row_edits
from mlx_patch.model._hooks import as_edits
from mlx_patch.positions import Pieces, Selector


class SelectorResolver:
    """Resolves selectors against the prompts of a run, row by row, and joins the edits of its rows.

    Args:
        tokens: Token ids. Shape `(batch, pos)`.
        tokenizer: The model's tokenizer, if there is one.
        offset: The absolute position of the first token, after those in a prompt cache. A prompt cache does not tell
            its tokens, so selectors search in the new tokens alone.
        alone: Whether rows are prompts of a list, each of which is edited as if it ran by itself; otherwise the rows
            are a batch, which an edit sees as a whole.
    """

    def __init__(self, tokens: mx.array, tokenizer: Any, offset: int = 0, alone: bool = False):
        self.tokens, self.tokenizer, self.offset = tokens, tokenizer, offset
        self.alone = alone and tokens.shape[0] > 1
        self._prompts: dict[int, Pieces] = {}

    def _prompt(self, row: int) -> Pieces:
        if row not in self._prompts:
            ids = cast("list[int]", self.tokens[row].tolist())
            self._prompts[row] = Pieces(tuple(ids), self.tokenizer)
        return self._prompts[row]

    def edits(self, edits: Iterable[Edit]) -> tuple[Edit, ...]:
        """The edits with positions in place of selectors, one for each. Where rows differ, it is a `RowEdits`.

        Raises:
            SelectionError: A selector finds nothing, or more than it may.
            TokenError: It goes by text, and there is no tokenizer.
        """
        n_rows = self.tokens.shape[0]
        written = as_edits(edits)
        resolved = tuple(self.join([edit] * n_rows) for edit in written)
        if all(edit is original for edit, original in zip(resolved, written, strict=True)):
            return written  # the same tuple: `run_rows` compares by identity
        return resolved

    def join(self, edits: Sequence[Edit]) -> Edit:
        """One edit, from an edit for each row; all of one site.

        Raises:
            SelectionError, TokenError: As `edits` says.
        """
        first = edits[0]
        same = all(edit is first for edit in edits)
        serves_all_rows = not self.alone or first.intervention.by_row
        if same and serves_all_rows and not _selects(first):
            return first
        if self.alone:
            return self._of_prompts(edits)
        return self._of_batch(edits, same)

    def choice(self, name: str, pos: PositionChoice) -> PositionChoice:
        """A choice of positions that is the same in all rows.

        Raises:
            SelectionError: It differs from row to row, or as the selector says.
        """
        if not isinstance(pos, Selector):
            return pos
        rows = {self._find(pos, row): row for row in range(self.tokens.shape[0])}
        choices = list(rows)
        if len(choices) > 1:
            first, second = choices[:2]
            raise SelectionError(
                f"`{name}` must be the same positions in every row. Got {shown(pos)}: {list(first)} in row "
                f"{rows[first]}, "
                f"{list(second)} in row {rows[second]}. Run the prompts one by one."
            )
        return choices[0]

    def _of_prompts(self, edits: Sequence[Edit]) -> Edit:
        """An edit of each prompt, which sees that prompt alone."""
        members, rows = self._group(edits, range(len(edits)))
        if len(members) == 1 and members[0].intervention.by_row:
            return members[0]
        return prompt_edits(members, rows, len(edits))

    def _of_batch(self, edits: Sequence[Edit], same: bool) -> Edit:
        """One edit over the batch, whose rows may differ in positions and interventions."""
        acting = [row for row, edit in enumerate(edits) if self._acts_in(edit, row)]
        members, rows = self._group(edits, acting)
        if same and len(members) == 1:
            return members[0]
        return row_edits(members, rows, len(edits))

    def _group(self, edits: Sequence[Edit], rows: Iterable[int]) -> tuple[list[Edit], list[list[int]]]:
        """The distinct edits, with positions in place of selectors; and the rows of each."""
        members: dict[tuple[int, object], Edit] = {}
        member_rows: dict[tuple[int, object], list[int]] = {}
        for row in rows:
            member, positions_found = self._resolved(edits[row], row)
            identity = (id(edits[row]), tuple(positions_found.items()))
            members.setdefault(identity, member)
            member_rows.setdefault(identity, []).append(row)
        return list(members.values()), list(member_rows.values())

    def _resolved(self, edit: Edit, row: int) -> tuple[Edit, dict[str, tuple[int, ...]]]:
        """An edit with positions in place of selectors for one row, and those positions."""
        selectors = {"pos": edit.pos, "key": edit.key}
        positions_found = {
            name: self._find(selector, row) for name, selector in selectors.items() if isinstance(selector, Selector)
        }
        if not positions_found:
            return edit, positions_found
        return replace(edit, **positions_found), positions_found

    def _acts_in(self, edit: Edit, row: int) -> bool:
        return edit.batch is None or row in map(self._row_index, edit.batch)

    def _row_index(self, row: int) -> int:
        """A row that may count from the end, as an index from 0."""
        n_rows = self.tokens.shape[0]
        if not -n_rows <= row < n_rows:
            raise SelectionError(f"`batch` must lie in {-n_rows} to {n_rows - 1}. Got {row}.")
        return row % n_rows

    def _find(self, selector: Selector, row: int) -> tuple[int, ...]:
        indices = selector.find(self._prompt(row))
        return tuple(self.offset + index for index in indices)


def _selects(edit: Edit) -> bool:
    """Whether an edit has a selector, which rows may resolve differently."""
    return isinstance(edit.pos, Selector) or isinstance(edit.key, Selector)
