"""What a sweep must find: a plain run a cell, in which rows that differ are edited one by one."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np
from typing_extensions import override

from mlx_patch.errors import PatchError
from mlx_patch.interventions import Chain, Edit, Intervention, Where
from mlx_patch.metrics import Metric
from mlx_patch.model import HookedModel
from mlx_patch.positions import Selector
from mlx_patch.sites import Site
from mlx_patch.testing._fuzz._case import Case, EditsOfCell


@dataclass(frozen=True, repr=False)
class Shadow(Metric):
    """The logits on a fixed direction that has something of every token: at `pos`, or where it is None at all.

    It is of the size of one logit, so that how a logit is rounded is how it is.
    """

    @override
    def measure(self, logits: mx.array) -> mx.array:
        shown = mx.where(mx.isinf(logits), 0, logits).astype(mx.float32)
        by_position = shown @ (mx.cos(mx.arange(logits.shape[-1]) * 2.4) / logits.shape[-1] ** 0.5)
        if self.pos is not None:
            return by_position[:, self.pos]
        weights = mx.cos(mx.arange(logits.shape[1]) * 1.7) / logits.shape[1] ** 0.5
        return by_position @ weights


@dataclass(frozen=True, repr=False)
class EachRow(Intervention):
    """An edit of each row, over the batch that was there before: no row sees what becomes of another.

    Attributes:
        edits: One a row, with positions in place of selectors.
    """

    edits: tuple[Edit, ...]

    @override
    def __call__(self, own: mx.array, where: Where) -> mx.array:
        rows = [own[n : n + 1] for n in range(own.shape[0])]
        for n, edit in enumerate(self.edits):
            edited = edit.apply(where.whole, where.site, where.span)
            if edited is not None:
                rows[n] = edited[n : n + 1]
        return mx.concatenate(rows, axis=0)

    @override
    def check(self, sites: Iterable[Site]) -> None:
        for edit in self.edits:
            edit.intervention.check(sites)


TrueNumbers = np.ndarray | PatchError
"""The metrics of a cell, of shape `(metric, example)`; or the error with which it is refused."""


def case_metrics(case: Case) -> list[Metric]:
    """The metrics of a case, one for each position that is read."""
    return [Shadow(pos=pos) for pos in case.reads]


def truth_of(model: HookedModel, case: Case, cell: EditsOfCell, first: Sequence[Edit] = ()) -> TrueNumbers:
    """What plain runs give for a cell.

    Args:
        model: The model.
        case: Where the prompts and metrics are from.
        cell: The edits.
        first: Edits that are made before them.
    """
    try:
        logits = _logits(model, case, cell, tuple(first))
    except PatchError as error:
        return error
    columns = [mx.concatenate([metric(one) for one in logits]) for metric in case_metrics(case)]
    return np.stack([np.array(column) for column in columns])


def largest_logit(model: HookedModel, case: Case) -> float:
    """The size of the unedited logits."""
    runs = [mx.array([prompt]) for prompt in case.prompts] if case.listed else [mx.array(case.prompts)]
    sizes = [mx.max(mx.where(mx.isinf(logits), 0, mx.abs(logits))) for logits in map(model.run, runs)]
    return max(float(size) for size in sizes)


def _logits(model: HookedModel, case: Case, cell: EditsOfCell, first: tuple[Edit, ...]) -> list[mx.array]:
    if case.listed:
        each = cell if len(cell) > 1 else [cell[0]] * len(case.prompts)
        pairs = zip(case.prompts, each, strict=True)
        return [model.run([list(prompt)], (*first, *edits)) for prompt, edits in pairs]
    edits = [step for rows in zip(*_of_rows(case, cell), strict=True) for step in _in_steps(case, rows)]
    return [model.run(mx.array(case.prompts), (*first, *edits))]


def _of_rows(case: Case, cell: EditsOfCell) -> Sequence[tuple[Edit, ...]]:
    return cell if len(cell) > 1 else [cell[0]] * len(case.prompts)


def _in_steps(case: Case, rows: tuple[Edit, ...]) -> Iterator[Edit]:
    """The edits of all rows in one, for each step of what all compose; itself where it is the same one."""
    placed = tuple(
        replace(edit, pos=edit.pos.resolve(prompt)) if isinstance(edit.pos, Selector) else edit
        for edit, prompt in zip(rows, case.prompts, strict=True)
    )
    if all(edit.intervention is rows[0].intervention and edit.pos == placed[0].pos for edit in placed):
        yield placed[0]
        return
    for steps in by_step(placed):
        yield Edit(EachRow(steps), rows[0].site, rows[0].layer)


def by_step(rows: tuple[Edit, ...]) -> list[tuple[Edit, ...]]:
    """The edits of all rows; where all do `a | b`, those of `a` and then those of `b`."""
    first = rows[0].intervention
    if not isinstance(first, Chain) or any(edit.intervention is not first for edit in rows):
        return [rows]
    return [tuple(replace(edit, intervention=step) for edit in rows) for step in first.steps]
