"""Edits of which each row of a batch has its own: other positions, or another intervention."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import mlx.core as mx
from typing_extensions import override

from mlx_patch.errors import EditNotUsedError, ShapeError, listed
from mlx_patch.interventions._base import steps
from mlx_patch.interventions._edit import Edit
from mlx_patch.interventions._span import Span
from mlx_patch.sites import Site


@dataclass(frozen=True, repr=False)
class _Joined(Edit):
    """Several edits of one site that are one edit, each of rows of its own."""

    members: tuple[Edit, ...] = ()

    @property
    @override
    def parts(self) -> tuple[Edit, ...]:
        return self.members

    @override
    def __repr__(self) -> str:
        return listed(dict.fromkeys(repr(replace(edit, batch=None)) for edit in self.members))

    @override
    def __hash__(self) -> int:
        return hash((type(self), self.members))


@dataclass(frozen=True, repr=False)
class RowEdits(_Joined):
    """One edit of a batch whose rows differ in what they choose: `batch` of each member has its rows.

    What reads the batch (a mean over it, noise's deviation, another row) sees it as it was before, as if all rows chose
    the same. Interventions that are composed act step by step in all rows.
    """

    @override
    def apply(self, activation: mx.array, site: Site, span: Span) -> mx.array | None:
        edited = None
        for step in zip_longest(*map(_by_step, self.members)):
            before = activation if edited is None else edited
            changes = [change for edit in step if edit and (change := edit.change(before, site, span))]
            for change in changes:
                edited = change.put(before if edited is None else edited)
        return edited

    @override
    def __hash__(self) -> int:
        return super().__hash__()


@dataclass(frozen=True, repr=False)
class PromptEdits(_Joined):
    """Edits of prompts that run together, each of which is alone: a member sees one row at a time, `(1, pos, ...)`.

    Attributes:
        rows: The rows of each member; those of none stay as they are.
        size: How many rows there are.
    """

    rows: tuple[tuple[int, ...], ...] = ()
    size: int = 0

    @override
    def apply(self, activation: mx.array, site: Site, span: Span) -> mx.array | None:
        if activation.shape[:1] != (self.size,):
            raise ShapeError(
                f"`site` must have the {self.size} prompts of one length along its first axis. Got {site}, of shape "
                f"{activation.shape}. Choose a named site, or run the prompts one by one."
            )
        pieces = [activation[row : row + 1] for row in range(self.size)]
        acted = False
        for edit, row in self._by_row():
            edited = edit.apply(pieces[row], site, span)
            if edited is not None:
                pieces[row], acted = edited, True
            elif not span.pieces:
                raise EditNotUsedError(
                    f"`edits` must each act. The edit at {site} did not: none of its positions was computed. "
                    "Choose positions of this prompt, or leave `pos` out."
                )
        return mx.concatenate(pieces, axis=0) if acted else None

    def _by_row(self) -> Iterator[tuple[Edit, int]]:
        for edit, rows in zip(self.members, self.rows, strict=True):
            for row in rows:
                yield edit, row

    @override
    def __hash__(self) -> int:
        return super().__hash__()


def row_edits(members: Sequence[Edit]) -> RowEdits:
    """One edit over a batch, of members whose `batch` says which rows are theirs."""
    first = members[0]
    return RowEdits(first.intervention, first.site, first.layer, members=tuple(members))


def prompt_edits(members: Sequence[Edit], rows: Sequence[Sequence[int]], size: int) -> PromptEdits:
    """Edits of prompts that run together, `size` in all, each in rows of its own, alone."""
    first, of_each = members[0], tuple(map(tuple, rows))
    return PromptEdits(first.intervention, first.site, first.layer, members=tuple(members), rows=of_each, size=size)


def _by_step(edit: Edit) -> list[Edit]:
    return [replace(edit, intervention=step) for step in steps(edit.intervention)]
