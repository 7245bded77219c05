"""`Frozen`: holds what writers add at fixed values, and notes what they would have added."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import mlx.core as mx
from typing_extensions import override

from mlx_patch.interventions import Edit, Intervention, Where
from mlx_patch.sites import Site

RowValues = Sequence[mx.array | None]
"""Values of rows one after the other, of each job; None leaves a job's rows as they are."""


@dataclass(frozen=True, eq=False, repr=False)
class Frozen(Intervention):
    """What writers add, held fixed. What is replaced is never computed, unless it is noted.

    Attributes:
        values: For each site the values of each job. Shape `(batch, pos, d_model)` each.
        noted_sites: The sites at which to note what would have been added.
        noted: What was noted, unevaluated. Shape `(job * batch, pos, d_model)` each.
    """

    values: Mapping[Site, RowValues]
    noted_sites: frozenset[Site] = frozenset()
    noted: dict[Site, mx.array] = field(default_factory=dict)

    @override
    def __call__(self, own: mx.array, where: Where) -> mx.array:
        if where.site in self.noted_sites:
            self.noted[where.site] = own
        return _joined(self.values[where.site], own)

    def edits(self) -> Iterator[Edit]:
        """The edits that hold the values fixed."""
        for site in self.values:
            yield self.at(site)


def _joined(pieces: RowValues, unfrozen: mx.array) -> mx.array:
    first = pieces[0]
    if first is not None and first.shape[0] == 1 and all(piece is first for piece in pieces):
        return first  # it broadcasts to all rows
    n_rows = unfrozen.shape[0] // len(pieces)
    rows = []
    for number, piece in enumerate(pieces):
        if piece is None:
            rows.append(unfrozen[number * n_rows : (number + 1) * n_rows])
        else:
            rows.append(piece)
    return mx.concatenate(rows, axis=0)
