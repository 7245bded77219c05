"""All the ways to compute the metrics of some cells: a sweep, `measure`, `run_each`, a run over a prompt cache."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

from mlx_patch.execution.plan import pieces_of
from mlx_patch.interventions import Ablate, Chain, Edit, Transformation
from mlx_patch.model import HookedModel
from mlx_patch.positions import Selector
from mlx_patch.sites import SITES
from mlx_patch.sweeps import measure, sweep
from mlx_patch.testing._fuzz._by_hand import can_be_written_out, logits_by_hand
from mlx_patch.testing._fuzz._case import Case, EditsOfCell
from mlx_patch.testing._fuzz._truth import Shadow, behind_standing, case_metrics, edits_by_row, numbers_of

NumbersOf = Callable[[], np.ndarray]
"""Computes the metrics of the first cells, or of all. Shape `(cell, metric, example)`."""


def ways(model: HookedModel, case: Case) -> Iterator[tuple[str, NumbersOf]]:
    """Each way, with its name. Ways other than a sweep compute the first cell alone."""
    yield f"sweep, {case.executor}", partial(_run_sweep, model, case)
    first = behind_standing(case, case.cells.edits()[0])
    if len(first) == 1:
        yield "measure", partial(_run_measure, model, case, first[0])
    if case.listed:
        yield "run_each", partial(_run_each, model, case, first)
    if case.precision == "float32" and can_be_written_out(case.model, list(first)):
        yield "by hand", partial(_run_by_hand, model, case, first)
    cut = _cut(case, first)
    splits = hasattr(model.model, "layers") and not model.layout.family.uncut  # plamo3 itself gives other numbers split
    if cut is not None and splits:
        yield f"run behind a prompt cache of {cut} positions", partial(_run_behind_cache, model, case, first[0], cut)


def _run_sweep(model: HookedModel, case: Case) -> np.ndarray:
    options: dict[str, Any] = {"executor": case.executor, "memory": case.memory, "progress": False}
    with pieces_of(case.piece):
        result = sweep(
            model,
            _prompts(case),
            metric=case_metrics(case),
            edits=case.standing,
            **case.cells.arguments(),
            **options,
        )
    shape = (-1, len(case.reads), len(case.prompts))
    return np.asarray(result.values).reshape(shape)


def _prompts(case: Case) -> Any:
    """The prompts; those of a list as arrays, for nested lists of one length are a batch."""
    if case.listed:
        return [mx.array(prompt) for prompt in case.prompts]
    return mx.array(case.prompts)


def _run_measure(model: HookedModel, case: Case, edits: tuple[Edit, ...]) -> np.ndarray:
    return measure(model, _prompts(case), case_metrics(case), edits)[None]


def _run_each(model: HookedModel, case: Case, cell: EditsOfCell) -> np.ndarray:
    edits: Any = list(cell[0])
    if len(cell) > 1:
        edits = [list(prompt_edits) for prompt_edits in cell]
    logits = model.run_each([list(prompt) for prompt in case.prompts], edits)
    return numbers_of(case, logits)[None]


def _run_by_hand(model: HookedModel, case: Case, cell: EditsOfCell) -> np.ndarray:
    rows = list(edits_by_row(case, cell))
    if case.listed:
        pairs = zip(case.prompts, rows, strict=True)
        logits = [logits_by_hand(model, (prompt,), [edits]) for prompt, edits in pairs]
    else:
        logits = [logits_by_hand(model, case.prompts, rows)]
    return numbers_of(case, logits)[None]


def _cut(case: Case, cell: EditsOfCell) -> int | None:
    """A position before all edits at which a prompt may be cut; None where there is none."""
    if case.listed or len(cell) > 1 or case.reads != (-1,):
        return None
    if any(edit.site not in SITES or _reads_all_positions(edit.intervention) for edit in cell[0]):
        return None  # it is not known which axis of a raw path has positions
    cut = len(case.prompts[0]) - 1
    for edit in cell[0]:
        for prompt in case.prompts:
            cut = min(cut, _first_position(edit, prompt))
    if cut == 0:
        return None
    return cut


def _first_position(edit: Edit, prompt: tuple[int, ...]) -> int:
    """The first position of an edit; 0 where it has none, or all."""
    length = len(prompt)
    if edit.pos is None:
        return 0
    if isinstance(edit.pos, Selector):
        return min(edit.pos.resolve(prompt))
    if isinstance(edit.pos, slice):
        return min(range(length)[edit.pos], default=0)
    return min(position % length for position in edit.pos)


def _reads_all_positions(intervention: Transformation) -> bool:
    """Whether an intervention reads positions other than its own: all those of the run, which a prompt cache cuts."""
    if isinstance(intervention, Chain):
        return any(map(_reads_all_positions, intervention.steps))
    if not isinstance(intervention, Ablate):
        return False
    return intervention.kind == "noise" or (intervention.kind == "mean" and intervention.source is None)


def _run_behind_cache(model: HookedModel, case: Case, edits: tuple[Edit, ...], cut: int) -> np.ndarray:
    tokens, prompt_cache = mx.array(case.prompts), make_prompt_cache(model.model)
    model.run(tokens[:, :cut], prompt_cache=prompt_cache)
    logits = model.run(tokens[:, cut:], edits, prompt_cache=prompt_cache)
    return np.array(Shadow(pos=-1)(logits))[None, None]
