"""The right numbers of a sweep: one plain run per cell, in which rows that differ are edited one by one."""

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
    """The projection of the logits on a fixed direction that every token is a part of: at `pos`, or None for all.

    It has the size of one logit, and so the rounding of one.
    """

    @override
    def measure(self, logits: mx.array) -> mx.array:
        finite = mx.where(mx.isinf(logits), 0, logits).astype(mx.float32)
        _, n_positions, d_vocab = logits.shape
        direction = mx.cos(mx.arange(d_vocab) * 2.4) / d_vocab**0.5
        by_position = finite @ direction
        if self.pos is not None:
            return by_position[:, self.pos]
        weights = mx.cos(mx.arange(n_positions) * 1.7) / n_positions**0.5
        return by_position @ weights


@dataclass(frozen=True, repr=False)
class EachRow(Intervention):
    """An edit of each row, all over the same batch: no row sees the edit of another.

    Attributes:
        edits: One for each row, with positions in place of selectors.
    """

    edits: tuple[Edit, ...]

    @override
    def __call__(self, own: mx.array, where: Where) -> mx.array:
        rows = [own[row : row + 1] for row in range(own.shape[0])]
        for row, edit in enumerate(self.edits):
            edited = edit.apply(where.whole, where.site, where.span)
            if edited is not None:
                rows[row] = edited[row : row + 1]
        return mx.concatenate(rows, axis=0)

    @override
    def check(self, sites: Iterable[Site]) -> None:
        for edit in self.edits:
            edit.intervention.check(sites)


TrueNumbers = np.ndarray | PatchError
"""The metrics of a cell, of shape `(metric, example)`; or the error of a cell that is refused."""


def case_metrics(case: Case) -> list[Metric]:
    """The metrics of a case, one for each position that is read."""
    return [Shadow(pos=pos) for pos in case.reads]


def truth_of(model: HookedModel, case: Case, cell: EditsOfCell, first: Sequence[Edit] = ()) -> TrueNumbers:
    """The metrics of a cell by plain runs.

    Args:
        model: The model.
        case: The case with the prompts and metrics.
        cell: The edits.
        first: Edits that are made before them.
    """
    try:
        logits = _logits(model, case, cell, tuple(first))
    except PatchError as error:
        return error
    return numbers_of(case, logits)


def numbers_of(case: Case, logits: Sequence[mx.array]) -> np.ndarray:
    """The metrics of a case from the logits of its runs. Shape `(metric, example)`."""
    rows = []
    for metric in case_metrics(case):
        values = mx.concatenate([metric(run_logits) for run_logits in logits])
        rows.append(np.array(values))
    return np.stack(rows)


def largest_logit(model: HookedModel, case: Case) -> float:
    """The size of the unpatched logits."""
    if case.listed:
        batches = [mx.array([prompt]) for prompt in case.prompts]
    else:
        batches = [mx.array(case.prompts)]
    sizes = []
    for tokens in batches:
        logits = model.run(tokens)
        finite = mx.where(mx.isinf(logits), 0, mx.abs(logits))
        sizes.append(float(mx.max(finite)))
    return max(sizes)


def _logits(model: HookedModel, case: Case, cell: EditsOfCell, first: tuple[Edit, ...]) -> list[mx.array]:
    by_row = edits_by_row(case, behind_standing(case, cell))
    if case.listed:
        pairs = zip(case.prompts, by_row, strict=True)
        return [model.run([list(prompt)], (*first, *edits)) for prompt, edits in pairs]
    joined = list(first)
    for row_edits in zip(*by_row, strict=True):
        joined += _join_rows(case, row_edits)
    return [model.run(mx.array(case.prompts), joined)]


def behind_standing(case: Case, cell: EditsOfCell) -> EditsOfCell:
    """The edits of a cell behind the standing ones."""
    return [(*case.standing, *edits) for edits in cell]


def edits_by_row(case: Case, cell: EditsOfCell) -> Sequence[tuple[Edit, ...]]:
    """The edits of a cell, one entry for each prompt."""
    if len(cell) > 1:
        return cell
    return [cell[0]] * len(case.prompts)


def _join_rows(case: Case, rows: tuple[Edit, ...]) -> Iterator[Edit]:
    """The edits of all rows joined into one for each step of a chain; the edit itself, if it is the same in all."""
    pairs = zip(rows, case.prompts, strict=True)
    resolved = tuple(_resolve(edit, prompt) for edit, prompt in pairs)
    first = resolved[0]
    if all(edit.intervention is first.intervention and edit.pos == first.pos for edit in resolved):
        yield first
        return
    for steps in by_step(resolved):
        yield Edit(EachRow(steps), first.site, first.layer)


def _resolve(edit: Edit, prompt: tuple[int, ...]) -> Edit:
    """The edit with positions in place of a selector."""
    if not isinstance(edit.pos, Selector):
        return edit
    return replace(edit, pos=edit.pos.resolve(prompt))


def by_step(rows: tuple[Edit, ...]) -> list[tuple[Edit, ...]]:
    """The edits of all rows; if all are of the same chain `a | b`, those of `a` and then those of `b`."""
    first = rows[0].intervention
    if not isinstance(first, Chain) or any(edit.intervention is not first for edit in rows):
        return [rows]
    return [tuple(replace(edit, intervention=step) for edit in rows) for step in first.steps]
