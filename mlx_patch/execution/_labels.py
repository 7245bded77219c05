"""From the numbers of a sweep to its result: axes, coordinates, and where it all came from."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlx_patch.execution._experiment import Experiment
from mlx_patch.execution.plan import Plan
from mlx_patch.execution.progress import Numbers
from mlx_patch.provenance import versions
from mlx_patch.results import SweepResult


def build_result(experiment: Experiment, planned: Plan, numbers: Numbers, seconds: float) -> SweepResult:
    """The numbers of a sweep with their axes."""
    metrics, values, baseline = experiment.requested.metrics, numbers.values, numbers.baseline
    mask = numbers.mask([batch.examples for batch in experiment.batches])
    if experiment.answers is not None:
        values, baseline = (experiment.answers.combined(found) for found in (values, baseline))
        mask = experiment.answers.measured(mask)
    several = len(metrics) > 1
    sizes = [len(coords) for coords in experiment.coords.values()]
    coords: dict[str, tuple] = dict(experiment.coords)
    if several:
        coords["metric"] = tuple(metric.name for metric in metrics)
    coords["example"] = tuple(range(values.shape[-1]))
    if "pos" in coords and (tokens := _token_strings(experiment, coords["pos"])):
        coords["token"] = tokens
    kept = (slice(None),) if several else (0,)
    values, mask = (of[(slice(None), *kept)].reshape(*sizes, *of.shape[1 + (not several) :]) for of in (values, mask))
    axes = tuple(name for name in coords if name != "token")
    return SweepResult(
        values=values,
        axes=axes,
        coords=coords,
        baseline=baseline[kept],
        provenance=_provenance(experiment, planned, numbers),
        plan=planned,
        seconds=seconds,
        run_mask=mask,
    )


def _provenance(experiment: Experiment, planned: Plan, numbers: Numbers) -> Mapping[str, Any]:
    return {
        "versions": versions(),
        "model": experiment.model.identity,
        "tokens": _token_ids(experiment),
        "metrics": [metric.name for metric in experiment.requested.metrics],
        **experiment.description,
        "executor": planned.executor,
        "fell_back": planned.why,
        "token_layers": numbers.token_layers,
        **({"written": "a run a cell, then token after token"} if experiment.generates else {}),
    }


def _token_ids(experiment: Experiment) -> list[list[int]]:
    rows: dict[int, list[int]] = {}
    for batch in experiment.requested.batches:
        rows.update(zip(batch.examples, np.array(batch.tokens).tolist(), strict=True))
    return [rows[example] for example in sorted(rows)]


def _token_strings(experiment: Experiment, positions: Sequence[Any]) -> tuple[str, ...]:
    """What stands at each position, where all prompts have the same there, and somebody can say it."""
    tokenizer = experiment.model.tokenizer
    if tokenizer is None or len(experiment.requested.batches) != 1 or any(isinstance(pos, str) for pos in positions):
        return ()
    rows = np.array(experiment.requested.batches[0].tokens)
    said = []
    for pos in positions:
        columns = [np.unique(rows[:, p]) for p in (pos if isinstance(pos, tuple) else (pos,))]
        said.append("".join(tokenizer.decode(own.tolist()) if own.size == 1 else "*" for own in columns))
    return tuple(said)
