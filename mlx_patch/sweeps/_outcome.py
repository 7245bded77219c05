"""From the numbers of a sweep to its result: axes, coordinates, and where it all came from."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlx_patch.provenance import versions
from mlx_patch.sweeps._planned import Plan
from mlx_patch.sweeps._result import SweepResult
from mlx_patch.sweeps._run import Numbers
from mlx_patch.sweeps._setup import Setup


def result_of(setup: Setup, planned: Plan, numbers: Numbers, seconds: float) -> SweepResult:
    """The numbers of a sweep with their axes."""
    metrics, values, baseline = setup.asked.metrics, numbers.values, numbers.baseline
    mask = numbers.mask([batch.examples for batch in setup.batches])
    if setup.expansion is not None:
        values, baseline = (setup.expansion.combined(found) for found in (values, baseline))
        mask = setup.expansion.measured(mask)
    several = len(metrics) > 1
    sizes = [len(coords) for coords in setup.coords.values()]
    coords: dict[str, tuple] = dict(setup.coords)
    if several:
        coords["metric"] = tuple(metric.name for metric in metrics)
    coords["example"] = tuple(range(values.shape[-1]))
    if "pos" in coords and (tokens := _token_strings(setup, coords["pos"])):
        coords["token"] = tokens
    kept = (slice(None),) if several else (0,)
    values, mask = (of[(slice(None), *kept)].reshape(*sizes, *of.shape[1 + (not several) :]) for of in (values, mask))
    axes = tuple(name for name in coords if name != "token")
    return SweepResult(
        values=values,
        axes=axes,
        coords=coords,
        baseline=baseline[kept],
        provenance=_provenance(setup, planned, numbers),
        plan=planned,
        seconds=seconds,
        run_mask=mask,
    )


def _provenance(setup: Setup, planned: Plan, numbers: Numbers) -> Mapping[str, Any]:
    return {
        "versions": versions(),
        "model": setup.model.identity,
        "tokens": _token_ids(setup),
        "metrics": [metric.name for metric in setup.asked.metrics],
        **setup.said,
        "executor": planned.executor,
        "fell_back": planned.why,
        "token_layers": numbers.token_layers,
        **({"written": "a run a cell, then token after token"} if setup.speaks else {}),
    }


def _token_ids(setup: Setup) -> list[list[int]]:
    rows: dict[int, list[int]] = {}
    for batch in setup.asked.batches:
        rows.update(zip(batch.examples, np.array(batch.tokens).tolist(), strict=True))
    return [rows[example] for example in sorted(rows)]


def _token_strings(setup: Setup, positions: Sequence[Any]) -> tuple[str, ...]:
    """What stands at each position, where all prompts have the same there, and somebody can say it."""
    tokenizer = setup.model.tokenizer
    if tokenizer is None or len(setup.asked.batches) != 1 or any(isinstance(pos, str) for pos in positions):
        return ()
    rows = np.array(setup.asked.batches[0].tokens)
    said = []
    for pos in positions:
        columns = [np.unique(rows[:, p]) for p in (pos if isinstance(pos, tuple) else (pos,))]
        said.append("".join(tokenizer.decode(own.tolist()) if own.size == 1 else "*" for own in columns))
    return tuple(said)
