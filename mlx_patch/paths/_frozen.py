"""`Frozen`: holds what writers add at fixed values, and notes what they would have added."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

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
        values: For each site the values of each job; one alone serves all. Shape `(batch, pos, d_model)` each.
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
        pieces = self.values[where.site]
        if len(pieces) == 1 and pieces[0] is not None:
            return _repeated(pieces[0], own.shape[0] // pieces[0].shape[0])
        return _joined(pieces, own)

    def edits(self) -> Iterator[Edit]:
        """The edits that hold the values fixed."""
        for site in self.values:
            yield self.at(site)


def _joined(pieces: RowValues, unfrozen: mx.array) -> mx.array:
    """The rows of all jobs; neighbours with one array are one block."""
    n_rows = unfrozen.shape[0] // len(pieces)
    blocks: list[mx.array] = []
    n_joined = 0  # jobs that are in `blocks`
    for _, group in groupby(pieces, key=id):
        block = list(group)
        values = block[0]
        if values is None:
            blocks.append(unfrozen[n_joined * n_rows : (n_joined + len(block)) * n_rows])
        else:
            blocks.append(_repeated(values, len(block)))
        n_joined += len(block)
    if len(blocks) == 1:
        return blocks[0]
    return mx.concatenate(blocks, axis=0)


def _repeated(values: mx.array, times: int) -> mx.array:
    """The rows of an array, over and over."""
    if values.shape[0] == 1:
        return mx.broadcast_to(values, (times, *values.shape[1:]))
    return mx.tile(values, (times, 1, 1))
