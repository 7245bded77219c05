"""The result of a sweep from its numbers: axes, coordinates, and provenance."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlx_patch.execution._experiment import Experiment
from mlx_patch.execution.plan import Plan
from mlx_patch.execution.progress import Numbers
from mlx_patch.provenance import versions
from mlx_patch.results import SweepResult
from mlx_patch.tokens import shared_token


def build_result(experiment: Experiment, planned: Plan, numbers: Numbers, seconds: float) -> SweepResult:
    """The numbers of a sweep with their axes."""
    return SweepResult(
        **labelled(experiment, numbers),
        provenance=_provenance(experiment, planned, numbers),
        plan=planned,
        seconds=seconds,
    )


def labelled(experiment: Experiment, numbers: Numbers, *, to_first_order: bool = False) -> dict[str, Any]:
    """The numbers of an experiment as a result has them: values, axes, coordinates, baseline and mask.

    Args:
        experiment: What the numbers are of.
        numbers: The numbers, of which each answer of several tokens has parts.
        to_first_order: Whether they are estimates, which are put together to first order as well.
    """
    rows = [batch.examples for batch in experiment.batches]
    values, baseline, run_mask = numbers.values, numbers.baseline, numbers.mask(rows)
    values, baseline, run_mask = (_by_draw(array, experiment.n_draws) for array in (values, baseline, run_mask))
    if experiment.answers is not None:
        if to_first_order:
            values = experiment.answers.to_first_order(values, baseline[:, None])
        else:
            values = experiment.answers.combined(values)
        baseline = experiment.answers.combined(baseline)
        run_mask = experiment.answers.measured(run_mask)
    has_metric_axis = len(experiment.requested.metrics) > 1
    if not has_metric_axis:
        values, baseline, run_mask = values[:, :, 0], baseline[:, 0], run_mask[:, :, 0]
    coords = _coordinates(experiment, n_examples=values.shape[-1])
    labels: dict[str, Any] = {
        "values": _in_order_of_axes(values, experiment),
        "axes": tuple(name for name in coords if name != "token"),
        "coords": coords,
        "baseline": baseline.mean(axis=0),
        "run_mask": _in_order_of_axes(run_mask, experiment),
    }
    if experiment.standing_axis == "seed":
        labels["seed_baselines"] = baseline
    return labels


def _by_draw(array: np.ndarray, n_draws: int) -> np.ndarray:
    """An array with the rows of each draw of standing edits apart: `(..., row)` to `(draw, ..., row)`."""
    divided = array.reshape(*array.shape[:-1], n_draws, -1)
    return np.moveaxis(divided, -2, 0)


def _in_order_of_axes(array: np.ndarray, experiment: Experiment) -> np.ndarray:
    """Values of all cells in the shape of a result: `(draw, cell, ...)` to `(*over, ...)`."""
    names = list(experiment.coords)
    sizes = [len(labels) for name, labels in experiment.coords.items() if name != experiment.standing_axis]
    by_cell = array.reshape(len(array), *sizes, *array.shape[2:])
    if not experiment.standing_axis:
        return by_cell[0]
    return np.moveaxis(by_cell, 0, names.index(experiment.standing_axis))


def _coordinates(experiment: Experiment, n_examples: int) -> dict[str, tuple]:
    """The coordinates along each axis, in the order of axes; "token" stands beside "pos" and is no axis."""
    coords: dict[str, tuple] = dict(experiment.coords)
    metrics = experiment.requested.metrics
    if len(metrics) > 1:
        coords["metric"] = tuple(metric.name for metric in metrics)
    coords["example"] = tuple(range(n_examples))
    if "pos" in coords:
        tokens = _token_strings(experiment, coords["pos"])
        if tokens:
            coords["token"] = tokens
    return coords


def described_experiment(experiment: Experiment) -> dict[str, Any]:
    """What an experiment is, as the provenance of its result has it: versions, model, tokens, metrics, cells."""
    return {
        "versions": versions(),
        "model": experiment.model.identity,
        "tokens": _token_ids(experiment),
        "metrics": [metric.name for metric in experiment.requested.metrics],
        **experiment.description,
    }


def _provenance(experiment: Experiment, planned: Plan, numbers: Numbers) -> Mapping[str, Any]:
    return {
        **described_experiment(experiment),
        "executor": planned.executor,
        "fell_back": planned.why,
        "token_layers": numbers.token_layers,
        "skipped": numbers.skipped,
        **experiment.measurement.provenance,
    }


def _token_ids(experiment: Experiment) -> list[list[int]]:
    rows: dict[int, list[int]] = {}
    for batch in experiment.prompts:
        rows.update(zip(batch.examples, np.array(batch.tokens).tolist(), strict=True))
    return [rows[example] for example in sorted(rows)]


def _token_strings(experiment: Experiment, positions: Sequence[Any]) -> tuple[str, ...]:
    """The token at each position, `*` where prompts differ; empty without a tokenizer or with several lengths."""
    tokenizer = experiment.model.tokenizer
    batches = experiment.prompts
    if tokenizer is None or len(batches) != 1 or any(isinstance(pos, str) for pos in positions):
        return ()
    rows = np.array(batches[0].tokens)
    strings: list[str] = []
    for pos in positions:
        columns = pos if isinstance(pos, tuple) else (pos,)
        strings.append("".join(shared_token(tokenizer, rows[:, column]) for column in columns))
    return tuple(strings)
