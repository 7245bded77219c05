"""Edits of which each row of a batch has its own: other positions, or another intervention."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import mlx.core as mx
from typing_extensions import override

from mlx_patch.errors import EditNotUsedError, ShapeError, listed
from mlx_patch.interventions._base import steps
from mlx_patch.interventions._edit import Edit
from mlx_patch.interventions._span import Span
from mlx_patch.interventions._where import ActivationChange
from mlx_patch.sites import Site


@dataclass(frozen=True, repr=False)
class _Joined(Edit):
    """Several edits of one site that are one edit, each of rows of its own.

    Attributes:
        members: The edits.
        rows: The rows of each; those of none stay as they are.
        size: How many rows the batch has.
    """

    members: tuple[Edit, ...] = ()
    rows: tuple[tuple[int, ...], ...] = ()
    size: int = 0

    @property
    @override
    def parts(self) -> tuple[Edit, ...]:
        return self.members

    def refuse_other_rows(self, activation: mx.array, site: Site) -> None:
        """Refuse an array whose first axis does not hold the rows: a raw path into a heap of experts' tokens, say.

        Raises:
            ShapeError: It does not.
        """
        if activation.shape[:1] != (self.size,):
            raise ShapeError(
                f"`site` must have the {self.size} prompts of one length along its first axis. Got {site}, of shape "
                f"{activation.shape}. Choose a named site, or run the prompts one by one."
            )

    @override
    def __repr__(self) -> str:
        return listed(dict.fromkeys(map(repr, self.members)))

    @override
    def __hash__(self) -> int:
        return hash((type(self), self.members, self.rows))


@dataclass(frozen=True, repr=False)
class RowEdits(_Joined):
    """One edit of a batch whose rows differ in what they choose.

    A row gets what its member gives for it over the whole batch as it was before: what reads the batch (noise's
    deviation, a mean, another row, a function) sees no row that another member has changed. Where all members have one
    intervention that is composed, its steps act one after the other in all rows, as they do in a plain edit.
    """

    @override
    def apply(self, activation: mx.array, site: Site, span: Span) -> mx.array | None:
        self.refuse_other_rows(activation, site)
        edited = None
        for members in self._steps():
            before = activation if edited is None else edited
            for change in self._changes(members, before, site, span):
                edited = change.put(before if edited is None else edited)
        return edited

    def _steps(self) -> list[Sequence[Edit]]:
        """The members, once for each step of the intervention that they share."""
        first = self.members[0].intervention
        if any(edit.intervention is not first for edit in self.members):
            return [self.members]
        return [[replace(edit, intervention=step) for edit in self.members] for step in steps(first)]

    def _changes(self, members: Sequence[Edit], before: mx.array, site: Site, span: Span) -> Iterator[ActivationChange]:
        for edit, rows in zip(members, self.rows, strict=True):
            of_rows = replace(edit, batch=rows) if edit.intervention.by_row else edit
            if change := of_rows.change(before, site, span):
                yield change.of_rows(rows)

    @override
    def __hash__(self) -> int:
        return super().__hash__()


@dataclass(frozen=True, repr=False)
class PromptEdits(_Joined):
    """Edits of prompts that run together, each of which is alone: a member sees one row at a time, `(1, pos, ...)`."""

    @override
    def apply(self, activation: mx.array, site: Site, span: Span) -> mx.array | None:
        self.refuse_other_rows(activation, site)
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


_Kind = TypeVar("_Kind", bound=_Joined)


def row_edits(members: Sequence[Edit], rows: Sequence[Sequence[int]], size: int) -> RowEdits:
    """One edit over a batch of `size` rows, of members that are each of rows of their own."""
    return _joined(RowEdits, members, rows, size)


def prompt_edits(members: Sequence[Edit], rows: Sequence[Sequence[int]], size: int) -> PromptEdits:
    """Edits of prompts that run together, `size` in all, each in rows of its own, alone."""
    return _joined(PromptEdits, members, rows, size)


def _joined(kind: type[_Kind], members: Sequence[Edit], rows: Sequence[Sequence[int]], size: int) -> _Kind:
    first, of_each = members[0], tuple(map(tuple, rows))
    return kind(first.intervention, first.site, first.layer, members=tuple(members), rows=of_each, size=size)
