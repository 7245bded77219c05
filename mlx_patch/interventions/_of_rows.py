"""Edits that differ from row to row of a batch: in their positions, or in their interventions."""

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
    """Several edits of one site as one edit; each member edits other rows.

    Attributes:
        members: The edits.
        rows: The rows of each member; rows of no member stay as they are.
        size: The number of rows of the batch.
    """

    members: tuple[Edit, ...] = ()
    rows: tuple[tuple[int, ...], ...] = ()
    size: int = 0

    @property
    @override
    def parts(self) -> tuple[Edit, ...]:
        return self.members

    def refuse_other_rows(self, activation: mx.array, site: Site) -> None:
        """Refuse an array whose first axis does not hold the rows, such as a raw path into experts.

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
        edited, has_acted = activation, False
        for members in self._steps():
            before = edited
            for change in self._changes(members, before, site, span):
                edited, has_acted = change.put(edited), True
        return edited if has_acted else None

    def _steps(self) -> list[Sequence[Edit]]:
        """The members, once for each step of the intervention that they share."""
        first = self.members[0].intervention
        if any(edit.intervention is not first for edit in self.members):
            return [self.members]
        return [[replace(edit, intervention=step) for edit in self.members] for step in steps(first)]

    def _changes(self, members: Sequence[Edit], before: mx.array, site: Site, span: Span) -> Iterator[ActivationChange]:
        for member, rows in zip(members, self.rows, strict=True):
            edit = member
            if member.intervention.by_row:  # it need not see the other rows
                edit = replace(member, batch=rows)
            if change := edit.change(before, site, span):
                yield change.of_rows(rows)

    @override
    def __hash__(self) -> int:
        return super().__hash__()


@dataclass(frozen=True, repr=False)
class PromptEdits(_Joined):
    """Edits of independent prompts that run together: a member sees one row at a time, `(1, pos, ...)`."""

    @override
    def apply(self, activation: mx.array, site: Site, span: Span) -> mx.array | None:
        self.refuse_other_rows(activation, site)
        pieces = [activation[row : row + 1] for row in range(self.size)]
        has_acted = False
        for edit, row in self._by_row():
            edited = edit.apply(pieces[row], site, span)
            if edited is not None:
                pieces[row], has_acted = edited, True
            elif not span.pieces:
                raise EditNotUsedError(
                    f"`edits` must each act. The edit at {site} did not: none of its positions was computed. "
                    "Choose positions of this prompt, or leave `pos` out."
                )
        return mx.concatenate(pieces, axis=0) if has_acted else None

    def _by_row(self) -> Iterator[tuple[Edit, int]]:
        for edit, rows in zip(self.members, self.rows, strict=True):
            for row in rows:
                yield edit, row

    @override
    def __hash__(self) -> int:
        return super().__hash__()


_Kind = TypeVar("_Kind", bound=_Joined)


def row_edits(members: Sequence[Edit], rows: Sequence[Sequence[int]], size: int) -> RowEdits:
    """One edit over a batch of `size` rows; each member edits other rows."""
    return _join(RowEdits, members, rows, size)


def prompt_edits(members: Sequence[Edit], rows: Sequence[Sequence[int]], size: int) -> PromptEdits:
    """One edit over `size` independent prompts that run together; each member edits other rows."""
    return _join(PromptEdits, members, rows, size)


def _join(kind: type[_Kind], members: Sequence[Edit], rows: Sequence[Sequence[int]], size: int) -> _Kind:
    edit = members[0]
    rows_by_member = tuple(map(tuple, rows))
    return kind(edit.intervention, edit.site, edit.layer, members=tuple(members), rows=rows_by_member, size=size)
