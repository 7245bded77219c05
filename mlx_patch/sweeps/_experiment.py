"""From the arguments of `sweep` to an `Experiment`; what can be refused is refused here, before anything long."""

from collections.abc import Sequence
from dataclasses import replace

from mlx_patch.execution import Experiment
from mlx_patch.execution.cells import Cell, Shapes, cell_of, check_sources, may_follow_the_norm, refuse_misfits
from mlx_patch.execution.measurements import measurement_of
from mlx_patch.execution.readouts import (
    Readout,
    answer_runs,
    count_examples,
    plain_of,
    readouts_by_batch,
    with_answers,
)
from mlx_patch.interventions import Edit, Intervention
from mlx_patch.metrics import Metric, metrics_of
from mlx_patch.model import HookedModel, refuse_unlearned
from mlx_patch.sweeps._alignment import apply_alignment
from mlx_patch.sweeps._choices import Choices, choices_by_axis, chosen_by_axis, site_names
from mlx_patch.sweeps._over import RequestedCells, are_axes, cells_of_axes, cells_of_list
from mlx_patch.sweeps._per_prompt import checked_interventions, edits_by_batch, refuse_rows
from mlx_patch.sweeps._variation import Variation
from mlx_patch.tokens import Batch, Prompts, batches_of

CellsByBatch = tuple[tuple[Cell, ...], ...]


def make_experiment(
    model: HookedModel,
    tokens: Prompts,
    intervention: Intervention | Sequence[Intervention] | None,
    variation: Variation,
    metric: object,
) -> Experiment:
    """A sweep, checked. The arguments are those of `sweep`, and its metrics are of one kind.

    Raises:
        PatchError: As `sweep` says.
    """
    batches = batches_of(tokens, model.tokenizer, model.d_vocab)
    metrics = metrics_of(metric, model.tokenizer)
    _check_metrics(model, metrics, batches)
    answers = answer_runs(metrics, batches, model.d_vocab)
    readouts = readouts_by_batch(plain_of(metrics), batches)
    interventions = checked_interventions(intervention, count_examples(batches))
    interventions, positions = apply_alignment(interventions, variation.positions, batches)
    shapes = Shapes(model.layout, batches[0].tokens)
    requested = _requested_cells(model, batches, interventions, replace(variation, positions=positions), shapes)
    edits = [edit for cells in requested.edits for cell in cells for edit in cell]
    refuse_rows(edits, several=any(batch.alone for batch in batches) or len(interventions) > 1)
    if any(may_follow_the_norm(model.layout, edit) for edit in edits):
        readouts = tuple(readout.whole() for readout in readouts)
    cells = _cells_by_batch(model, batches, readouts, requested.edits)
    check_sources(model.layout, cells)
    for batch, batch_cells in zip(batches, cells, strict=True):
        refuse_misfits(shapes, batch.tokens.shape, batch_cells)
    if answers is not None:
        batches, readouts, cells = with_answers(model.layout, answers, readouts, cells)
        refuse_unlearned(model.layout, max(batch.length for batch in batches), "metric", "Measure less.")
    return Experiment(model, batches, readouts, cells, requested.coords, requested.description, answers)


def _check_metrics(model: HookedModel, metrics: Sequence[Metric], batches: Sequence[Batch]) -> None:
    """Refuse a model that cannot measure the metrics, and prompts that leave no room for it."""
    measurement = measurement_of(metrics[0])
    measurement.check(model, metrics)
    longest = max(batch.length for batch in batches)
    refuse_unlearned(model.layout, longest + measurement.further_positions(metrics))


def _requested_cells(
    model: HookedModel,
    batches: Sequence[Batch],
    interventions: Sequence[Intervention],
    variation: Variation,
    shapes: Shapes,
) -> RequestedCells:
    """What `over` means: the cells of a grid, or those that stand in a list."""
    sites, by_axis = site_names(variation.at), choices_by_axis(variation)
    if not are_axes(variation.over):
        return cells_of_list(variation.over, interventions, sites, by_axis)
    names = variation.over
    if isinstance(names, str):
        names = (names,)
    chosen = chosen_by_axis(by_axis, model.n_layers, batches)
    return cells_of_axes(names, interventions, Choices(model, batches, sites, chosen, shapes))


def _cells_by_batch(
    model: HookedModel,
    batches: Sequence[Batch],
    readouts: Sequence[Readout],
    edits: Sequence[Sequence[tuple[Edit, ...]]],
) -> CellsByBatch:
    """For each batch every cell, with its edits at the batch's own positions."""
    resolved = edits_by_batch(edits, batches, model)
    cells = []
    for batch, readout, batch_edits in zip(batches, readouts, resolved, strict=True):
        cells.append(tuple(cell_of(model.layout, cell, batch.length, readout.reach) for cell in batch_edits))
    return tuple(cells)
