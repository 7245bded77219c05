"""All the ways to the numbers of some cells: a sweep, `measure`, `run_each`, a run over a prompt cache."""

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
from mlx_patch.testing._fuzz._truth import Shadow, case_metrics

NumbersOf = Callable[[], np.ndarray]
"""Gives the metrics of some cells, from the first one on. Shape `(cell, metric, example)`."""


def ways(model: HookedModel, case: Case) -> Iterator[tuple[str, NumbersOf]]:
    """Each way, by a name. Ways other than a sweep are gone for the first cell alone."""
    yield f"sweep, {case.executor}", partial(_swept, model, case)
    first = case.cells.edits()[0]
    if len(first) == 1:
        yield "measure", partial(_measured, model, case, first[0])
    if case.listed:
        yield "run_each", partial(_each, model, case, first)
    if case.precision == "float32" and can_be_written_out(case.model, list(first)):
        yield "by hand", partial(_by_hand, model, case, first)
    cut = _cut(case, first)
    if cut is not None and hasattr(model.model, "layers"):
        yield f"run behind a prompt cache of {cut} positions", partial(_behind, model, case, first[0], cut)


def _swept(model: HookedModel, case: Case) -> np.ndarray:
    more: dict[str, Any] = {"executor": case.executor, "memory": case.memory, "progress": False}
    with pieces_of(case.piece):
        result = sweep(model, _prompts(case), metric=case_metrics(case), **case.cells.arguments(), **more)
    shape = (-1, len(case.reads), len(case.prompts))
    return np.asarray(result.values).reshape(shape)


def _prompts(case: Case) -> Any:
    """The prompts; those of a list as arrays, for nested lists of one length are a batch."""
    return [mx.array(prompt) for prompt in case.prompts] if case.listed else mx.array(case.prompts)


def _measured(model: HookedModel, case: Case, edits: tuple[Edit, ...]) -> np.ndarray:
    return measure(model, _prompts(case), case_metrics(case), edits)[None]


def _each(model: HookedModel, case: Case, cell: EditsOfCell) -> np.ndarray:
    edits: Any = [list(own) for own in cell] if len(cell) > 1 else list(cell[0])
    logits = model.run_each([list(prompt) for prompt in case.prompts], edits)
    return np.stack([np.concatenate([np.array(metric(one)) for one in logits]) for metric in case_metrics(case)])[None]


def _by_hand(model: HookedModel, case: Case, cell: EditsOfCell) -> np.ndarray:
    rows = list(cell) if len(cell) > 1 else [cell[0]] * len(case.prompts)
    if case.listed:
        pairs = zip(case.prompts, rows, strict=True)
        logits = [logits_by_hand(model, (prompt,), [edits]) for prompt, edits in pairs]
    else:
        logits = [logits_by_hand(model, case.prompts, rows)]
    return np.stack([np.concatenate([np.array(metric(one)) for one in logits]) for metric in case_metrics(case)])[None]


def _cut(case: Case, cell: EditsOfCell) -> int | None:
    """Where a prompt may be cut before all that is edited; None where its edits read what is before, or are there."""
    if case.listed or len(cell) > 1 or case.reads != (-1,):
        return None
    if any(edit.site not in SITES or _reads_the_whole(edit.intervention) for edit in cell[0]):
        return None  # of a raw path nobody knows which axis has positions
    length = len(case.prompts[0])
    first = [_first(edit, prompt) for edit in cell[0] for prompt in case.prompts]
    cut = min([length - 1, *(0 if at is None else at for at in first)])
    return cut if cut > 0 else None


def _first(edit: Edit, prompt: tuple[int, ...]) -> int | None:
    """The first position of an edit, where it says one."""
    length = len(prompt)
    if isinstance(edit.pos, Selector):
        return min(edit.pos.resolve(prompt))
    if isinstance(edit.pos, slice):
        return min(range(length)[edit.pos], default=None)
    return None if edit.pos is None else min(p % length for p in edit.pos)


def _reads_the_whole(intervention: Transformation) -> bool:
    """Whether an intervention reads positions that it is not made at: those of the run, which a prompt cache ends."""
    if isinstance(intervention, Chain):
        return any(map(_reads_the_whole, intervention.steps))
    own_mean = isinstance(intervention, Ablate) and intervention.kind == "mean" and intervention.source is None
    return own_mean or (isinstance(intervention, Ablate) and intervention.kind == "noise")


def _behind(model: HookedModel, case: Case, edits: tuple[Edit, ...], cut: int) -> np.ndarray:
    tokens, prompt_cache = mx.array(case.prompts), make_prompt_cache(model.model)
    model.run(tokens[:, :cut], prompt_cache=prompt_cache)
    logits = model.run(tokens[:, cut:], edits, prompt_cache=prompt_cache)
    return np.array(Shadow(pos=-1)(logits))[None, None]
