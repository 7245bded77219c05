"""From the arguments of `sweep` to an `Experiment`; what can be refused is refused here, before anything long."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from mlx_patch.errors import ValueRefusedError, shown
from mlx_patch.execution import Experiment
from mlx_patch.execution.cells import (
    Cell,
    KnownRun,
    Shapes,
    cell_of,
    check_sources,
    may_follow_the_norm,
    refuse_misfits,
    with_standing,
)
from mlx_patch.execution.measurements import measurement_of
from mlx_patch.execution.readouts import (
    Readout,
    RunGroups,
    answer_runs,
    count_examples,
    joined_groups,
    plain_of,
    readouts_by_batch,
    with_answers,
)
from mlx_patch.interventions import CellEdit, Edit, Intervention, Path, refuse_steps
from mlx_patch.metrics import Metric, metrics_of
from mlx_patch.model import HookedModel, as_edits, refuse_unlearned
from mlx_patch.paths import ResolvedPaths, checked_freeze, has_paths, resolve_paths
from mlx_patch.sweeps._over import RequestedCells, cells_of_axes, cells_of_list, site_names
from mlx_patch.sweeps._per_prompt import checked_interventions, edits_by_batch, refuse_rows
from mlx_patch.sweeps._variation import Variation, are_axes, axis_names
from mlx_patch.sweeps.axes import SweepAxis, SweepScope
from mlx_patch.tokens import Batch, Prompts, batches_of

CellsByBatch = tuple[tuple[Cell, ...], ...]


def make_experiment(
    model: HookedModel,
    tokens: Prompts,
    intervention: Intervention | Sequence[Intervention] | None,
    variation: Variation,
    metric: object,
    edits: Iterable[Edit] = (),
    freeze: str = "all",
) -> Experiment:
    """A sweep, checked. The arguments are those of `sweep`, and its metrics are of one kind.

    Raises:
        PatchError: As `sweep` says.
    """
    standing = as_edits(edits)
    checked_freeze(freeze)
    batches = batches_of(tokens, model.tokenizer, model.d_vocab)
    metrics = metrics_of(metric, model.tokenizer)
    check_metrics(model, metrics, batches)
    interventions = checked_interventions(intervention, count_examples(batches))
    interventions, axes = _align(interventions, variation.axes(), batches)
    shapes = Shapes(model.layout, batches[0].tokens)
    scope = SweepScope(model, batches, site_names(variation.at), shapes, axes, standing, interventions)
    requested = _requested_cells(variation, interventions, scope)
    description = {**requested.description, **_description_of(standing), **_description_of_paths(requested, freeze)}
    requested = replace(requested, description=description, freeze=freeze)
    return experiment_of_cells(model, batches, metrics, requested, shapes)


def experiment_of_cells(
    model: HookedModel,
    batches: tuple[Batch, ...],
    metrics: tuple[Metric, ...],
    requested: RequestedCells,
    shapes: Shapes | None = None,
    with_baseline: bool = True,
) -> Experiment:
    """An experiment of some cells, checked.

    Args:
        model: The model.
        batches: The prompts, in groups of equal length.
        metrics: Of one kind.
        requested: The cells.
        shapes: The model's shapes, so that every edit is tried on zeros; None where the first run comes at once.
        with_baseline: Whether the unpatched run is measured as well.
    Raises:
        PatchError: As `sweep` says.
    """
    answers = answer_runs(metrics, batches, model.d_vocab)
    readouts = readouts_by_batch(plain_of(metrics), batches)
    cell_edits = [_edit_in(member) for cells in requested.edits for cell in cells for member in cell]
    edits = [*chain(*requested.standing), *cell_edits]
    refuse_rows(edits, several=any(batch.alone for batch in batches) or len(requested.edits) > 1)
    if any(may_follow_the_norm(model.layout, edit) for edit in edits):
        readouts = tuple(readout.whole() for readout in readouts)
    draws = []
    for number, standing in enumerate(requested.standing):
        cells = requested.cells_with(number)
        draws.append(_run_groups(model, batches, readouts, standing, cells, requested.freeze, shapes))
    if answers is not None:
        draws = [with_answers(model.layout, answers, groups) for groups in draws]
        longest = max(batch.length for batch in draws[0].batches)
        refuse_unlearned(model.layout, longest, "metric", "Measure less.")
    groups = joined_groups(draws)
    return Experiment(
        model=model,
        batches=groups.batches,
        readouts=groups.readouts,
        cells=groups.cells,
        coords=requested.coords,
        description=requested.description,
        answers=answers,
        with_baseline=with_baseline,
        standing=groups.standing,
        standing_axis=requested.standing_axis,
        host_runs=groups.host_runs,
    )


def _run_groups(
    model: HookedModel,
    batches: tuple[Batch, ...],
    readouts: tuple[Readout, ...],
    standing: tuple[Edit, ...],
    edits: Sequence[Sequence[tuple[CellEdit, ...]]],
    freeze: str,
    shapes: Shapes | None,
) -> RunGroups:
    """The groups of prompts with their cells, which have the standing edits. All edits are checked."""
    layout = model.layout
    standing_cells = _standing_cells(model, batches, readouts, standing)
    standing_edits = [tuple(edit for cell in cells for edit in cell.edits) for cells in standing_cells]
    cells, host_runs = _cells_by_batch(model, batches, readouts, edits, standing_edits, freeze)
    check_sources(layout, [*cells, *standing_cells])
    placed = []
    for number, batch in enumerate(batches):
        if shapes is not None and host_runs[number] is None:  # else every edit was made for this model
            refuse_misfits(shapes, batch.tokens.shape, [*cells[number], *standing_cells[number]])
        placed.append(with_standing(layout, cells[number], standing_edits[number], batch.length))
    return RunGroups(batches, readouts, tuple(standing_edits), tuple(placed), host_runs)


def _standing_cells(
    model: HookedModel, batches: Sequence[Batch], readouts: Sequence[Readout], standing: tuple[Edit, ...]
) -> CellsByBatch:
    """For each batch the run with the standing edits alone, as a cell; none where there are no such edits.

    Raises:
        KindError: An edit acts during some steps of a generation.
    """
    if not standing:
        return tuple(() for _ in batches)
    for edit in standing:
        refuse_steps(edit, generation=False)
    no_standing = [()] * len(batches)
    cells, _ = _cells_by_batch(model, batches, readouts, [[standing]], no_standing, "all")
    return cells


def _description_of(standing: Sequence[Edit]) -> dict[str, Any]:
    """Standing edits in words. The values of cells are then not those of a run that takes a source's alone."""
    if not standing:
        return {}
    return {"edits": [repr(edit) for edit in standing], "sources": None}


def _description_of_paths(requested: RequestedCells, freeze: str) -> dict[str, Any]:
    """What is frozen on the way of paths, in words.

    Raises:
        ValueRefusedError: There are no paths, and something is to be frozen.
    """
    if any(map(has_paths, requested.edits)):
        return {"freeze": freeze}
    if freeze != "all":
        raise ValueRefusedError(
            f"`freeze` must be left out where there are no paths. Got {shown(freeze)}. Write "
            "via=mp.Receiver('logits'), say."
        )
    return {}


def _edit_in(member: CellEdit) -> Edit:
    """The edit that a member of a cell is, or begins with."""
    if isinstance(member, Path):
        return member.edit
    return member


def check_metrics(model: HookedModel, metrics: Sequence[Metric], batches: Sequence[Batch]) -> None:
    """Refuse a model that cannot measure metrics of one kind, and prompts that leave no room for it.

    Raises:
        PatchError: As `sweep` says.
    """
    measurement = measurement_of(metrics[0])
    measurement.check(model, metrics)
    longest = max(batch.length for batch in batches)
    refuse_unlearned(model.layout, longest + measurement.further_positions(metrics))


def _align(
    interventions: list[Intervention], axes: Mapping[str, SweepAxis], batches: Sequence[Batch]
) -> tuple[list[Intervention], dict[str, SweepAxis]]:
    """Interventions and axes, after what each axis does to both before any choice is read."""
    aligned_axes = {}
    for name, axis in axes.items():
        interventions, aligned_axes[name] = axis.aligned(interventions, batches)
    return interventions, aligned_axes


def _requested_cells(variation: Variation, interventions: Sequence[Intervention], scope: SweepScope) -> RequestedCells:
    """What `over` means: the cells of a grid, or those that stand in a list."""
    if not are_axes(variation.over):
        return cells_of_list(variation.over, interventions, scope)
    return cells_of_axes(axis_names(variation.over), interventions, scope)


def _cells_by_batch(
    model: HookedModel,
    batches: Sequence[Batch],
    readouts: Sequence[Readout],
    edits: Sequence[Sequence[tuple[CellEdit, ...]]],
    standing: Sequence[tuple[Edit, ...]],
    freeze: str,
) -> tuple[CellsByBatch, tuple[KnownRun | None, ...]]:
    """For each batch every cell, with its edits at the batch's own positions, and edits in place of its paths.

    Returns:
        The cells, and the hosts' runs where there are paths.
    """
    layout = model.layout
    members_by_batch = edits_by_batch(edits, batches, model)
    cells, host_runs = [], []
    for number, members in enumerate(members_by_batch):
        batch, readout = batches[number], readouts[number]
        resolved = resolve_paths(layout, batch.tokens, standing[number], members, freeze, readout.at)
        cells.append(tuple(cell_of(layout, cell, batch.length, readout.reach) for cell in resolved.cells))
        host_runs.append(_host_run_of(resolved))
    return tuple(cells), tuple(host_runs)


def _host_run_of(resolved: ResolvedPaths) -> KnownRun | None:
    if resolved.host_run is None:
        return None
    return KnownRun(resolved.host_run, resolved.unchanged)
