"""From an experiment to estimates: each group of prompts, its gradients, its cells."""

from collections.abc import Sequence
from functools import partial

import mlx.core as mx

from mlx_patch.architectures import Layout
from mlx_patch.attribution._methods import Method
from mlx_patch.attribution._prompt_run import PromptRun
from mlx_patch.engine import Action, ForwardPass
from mlx_patch.errors import KindError, shown
from mlx_patch.execution import Experiment, Numbers, no_numbers
from mlx_patch.execution.cells import Cell, edits_by_site, places_of, standing_in_rows
from mlx_patch.interventions import Edit, PromptEdits, Span
from mlx_patch.sites import Site
from mlx_patch.tokens import Batch


def estimate_cells(
    experiment: Experiment, method: Method, memory: int | None
) -> tuple[Numbers, dict[str, float | str]]:
    """The estimate of every cell, and the baseline, in the metric's unit; and what the method notes.

    Args:
        experiment: The prompts and the cells.
        method: How they are estimated.
        memory: Bytes that it may take beside the weights, if one layer does not take more; None is no bound.
    """
    numbers = no_numbers(experiment)
    notes: dict[str, float | str] = {}
    layout = experiment.model.layout
    groups = zip(experiment.batches, experiment.readouts, experiment.cells, strict=True)
    for index, (batch, readout, cells) in enumerate(groups):
        standing = experiment.standing_of(index)
        _refuse_mixed_rows(layout, batch, cells)
        start = 0  # a standing edit may need all positions at once
        if not standing:
            start = method.first_position(min(readout.first, *(cell.start for cell in cells)))
        actions = _actions_of(layout, standing, batch.length)
        prompt_run = PromptRun(layout, batch.tokens, readout, start, memory, actions)
        span = Span(start, batch.length - start, batch.length)
        effects = method.effects(prompt_run, cells, tuple(edits_by_site(layout, enumerate(cells))), span)
        examples = list(batch.examples)
        numbers.baseline[:, examples] = effects.baseline
        numbers.values[..., examples] = effects.baseline + effects.of_cells
        numbers.done[index] = True
        for name, note in effects.notes.items():
            notes[name] = _larger(notes.get(name, note), note)
    return numbers, notes


def _larger(note: float | str, next_note: float | str) -> float | str:
    """The larger of two numbers; of words the first."""
    if isinstance(note, str) or isinstance(next_note, str):
        return note
    return max(note, next_note)


def _actions_of(layout: Layout, edits: Sequence[Edit], length: int) -> list[tuple[Site, Action]]:
    """What edits do in a run of whole prompts, by site."""
    prompt = Span(0, length, length)

    def act(edit: Edit, site: Site, value: mx.array, forward_pass: ForwardPass) -> mx.array | None:
        return edit.apply(value, site, prompt)

    return [(site, partial(act, edit, site)) for edit in edits for site in places_of(layout, edit)]


def _refuse_mixed_rows(layout: Layout, batch: Batch, cells: Sequence[Cell]) -> None:
    """Refuse standing edits that carry a change in one row of a batch to the metric of another.

    Raises:
        KindError: One reads the whole batch, behind what a cell changes.
    """
    if batch.tokens.shape[0] == 1:
        return
    for cell in cells:
        if not cell.standing:
            continue
        for _, edit in standing_in_rows(layout, cell, cell.entry or 0, grow=cell.entry is not None):
            if not isinstance(edit, PromptEdits) and not all(member.intervention.by_row for member in edit.parts):
                raise KindError(
                    f"`edits` must read each row of a batch by itself to be differentiated. Got {shown(edit)}. "
                    "Pass the "
                    "prompts as a list of arrays: each is then edited as if alone."
                )
