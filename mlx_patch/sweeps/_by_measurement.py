"""Sweeps whose metrics are measured in several ways: one sweep for each way, put together."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mlx_patch.errors import KindError, shown
from mlx_patch.execution import SweepOutcome
from mlx_patch.execution.measurements import Measurement, metrics_by_measurement
from mlx_patch.execution.plan import Plan
from mlx_patch.metrics import Metric, as_metric, refuse_same_names
from mlx_patch.model import HookedModel
from mlx_patch.results import SweepResult

Kinds = list[tuple[Measurement, list[Metric]]]
"""Measurements, in the order of their sweeps, each with its metrics."""


def kinds_of(metric: Any) -> Kinds:
    """The measurements that a list of metrics needs; an empty list for anything else, which is checked elsewhere."""
    if not isinstance(metric, list | tuple):
        return []
    return metrics_by_measurement(map(as_metric, metric))


def refuse_with_several(kinds: Kinds, **choices: object) -> None:
    """Refuse what several sweeps cannot share.

    Raises:
        KindError: A checkpoint, or several ranks.
    """
    _, last_metrics = kinds[-1]
    kind = type(last_metrics[0]).__name__
    for name, value in choices.items():
        if value is not None:
            raise KindError(
                f"`{name}` must be left out if {kind} is swept with metrics of other kinds. Got {shown(value)}. "
                "Sweep the "
                f"others with it, and {kind} separately."
            )


def check_kinds(model: HookedModel, kinds: Kinds) -> None:
    """Refuse metrics that a model cannot measure, or that a result could not tell apart.

    Raises:
        ValueRefusedError: Two have the same name.
        KindError: The model lacks what one needs.
    """
    refuse_same_names([metric for _, metrics in kinds for metric in metrics])
    for measurement, metrics in kinds:
        measurement.check(model, metrics)


def sweep_kinds(
    kinds: Kinds, names: Sequence[str], sweep_of: Callable[[list[Metric], bool], SweepOutcome]
) -> SweepResult:
    """One result of metrics of several kinds, in the order of `names`.

    Args:
        kinds: The measurements, swept one after the other.
        names: The names of all metrics.
        sweep_of: Sweeps metrics of one kind; its second argument says whether progress is shown.
    """
    results: list[SweepResult] = []
    for _, metrics in kinds:
        is_last = len(results) == len(kinds) - 1
        try:
            result, interrupted = sweep_of(metrics, is_last)
        except KeyboardInterrupt:  # the results of earlier kinds are kept
            if not results:
                raise
            break
        results.append(result)
        if interrupted:
            break
    return _join_results(results, tuple(names))


def plan_kinds(kinds: Kinds, plan_of: Callable[[list[Metric]], Plan]) -> Plan:
    """The plan of the first kind, with the cost of the other kinds added."""
    plans = [plan_of(metrics) for _, metrics in kinds]
    return _add_cost(plans[0], plans[1:])


def _add_cost(first: Plan, further_plans: Sequence[Plan]) -> Plan:
    """A plan that also counts the token-layers of further plans."""
    written = first.written
    for plan in further_plans:
        written += plan.token_layers + plan.written
    return replace(first, written=written)


def _join_results(results: Sequence[SweepResult], names: tuple[str, ...]) -> SweepResult:
    """One result of all metrics; NaN for those that were not measured."""
    first = results[0]
    values, mask, baseline = _join_arrays(results, names)
    coords = {axis: labels for axis, labels in first.coords.items() if axis != "metric"}
    further_plans = [result.plan for result in results[1:]]
    return replace(
        first,
        values=values,
        run_mask=mask,
        baseline=baseline,
        seed_baselines=_join_seed_baselines(results, names),
        axes=(*first.over, "metric", "example"),
        coords={**coords, "metric": names},
        provenance=_join_provenance(results, names),
        plan=_add_cost(first.plan, further_plans),
        seconds=sum(result.seconds or 0.0 for result in results),
    )


def _join_arrays(results: Sequence[SweepResult], names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The values, the mask of values that were run, and the baseline, each with the metrics in the order of `names`."""
    first = results[0]
    n_examples = first.values.shape[-1]
    cells = first.values.shape[: len(first.over)]
    values = np.full((*cells, len(names), n_examples), np.nan, np.float32)
    baseline = np.full((len(names), n_examples), np.nan, np.float32)
    mask = np.zeros(values.shape, bool)
    for result in results:
        rows = [names.index(name) for name in result.metrics]
        shape = (*cells, len(rows), n_examples)
        values[..., rows, :] = result.values.reshape(shape)
        mask[..., rows, :] = result.run_mask.reshape(shape)
        baseline[rows] = result.baseline.reshape(len(rows), n_examples)
    return values, mask, baseline


def _join_seed_baselines(results: Sequence[SweepResult], names: tuple[str, ...]) -> np.ndarray | None:
    """The baselines of each seed, with the metrics in the order of `names`; None where seeds share the baseline."""
    first = results[0].seed_baselines
    if first is None:
        return None
    n_seeds, n_examples = len(first), first.shape[-1]
    baselines = np.full((n_seeds, len(names), n_examples), np.nan, np.float32)
    for result in results:
        rows = [names.index(name) for name in result.metrics]
        baselines[:, rows] = result.seed_baselines.reshape(n_seeds, len(rows), n_examples)
    return baselines


def _join_provenance(results: Sequence[SweepResult], names: tuple[str, ...]) -> dict[str, Any]:
    """The provenance of all results; entries of earlier results win."""
    provenance: dict[str, Any] = {}
    for result in reversed(results):
        provenance |= result.provenance
    provenance["metrics"] = list(names)
    for count in ("token_layers", "skipped"):
        provenance[count] = sum(result.provenance[count] for result in results)
    return provenance
