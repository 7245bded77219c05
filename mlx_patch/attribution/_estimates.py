"""From an experiment to estimates: each group of prompts, its gradients, its cells."""

from mlx_patch.attribution._methods import Method
from mlx_patch.attribution._prompt_run import PromptRun
from mlx_patch.execution import Experiment, Numbers, no_numbers
from mlx_patch.execution.cells import edits_by_site
from mlx_patch.interventions import Span


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
        start = method.first_position(min(readout.first, *(cell.start for cell in cells)))
        prompt_run = PromptRun(layout, batch.tokens, readout, start, memory)
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
