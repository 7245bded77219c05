"""Sweeps that let the model write in every cell: the other metrics as ever, and what is written cell by cell."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np

from mlx_patch.errors import KindError, ValueRefusedError, listed
from mlx_patch.metrics import Entropy, GenerateMatches, as_metric
from mlx_patch.sweeps._progress import Progress
from mlx_patch.sweeps._result import SweepResult
from mlx_patch.sweeps._setup import Setup
from mlx_patch.sweeps._speaking import spoken

_STAND_IN = Entropy(name="stand-in")


def speaking(metric: object) -> bool:
    """Whether a metric lets the model write."""
    many = metric if isinstance(metric, list | tuple) else (metric,)
    return any(isinstance(one, GenerateMatches) for one in many)


def refuse_with_speech(**given: object) -> None:
    """Refuse what sweeps that let the model write do not do.

    Raises:
        KindError: A checkpoint, or several ranks.
    """
    for name, value in given.items():
        if value is not None:
            raise KindError(
                f"`{name}` must be left out with GenerateMatches, each of whose cells is a run of its own. "
                f"Got {value!r}. Sweep the other metrics with it, and this one by itself."
            )


def sweep_with_speech(
    setup_of: Callable[[Any], Setup],
    sweep_of: Callable[[Any], SweepResult],
    metric: Any,
    progress: Any,
) -> SweepResult:
    """A sweep with metrics that let the model write, in the order in which all metrics were given.

    Args:
        setup_of: From metrics to the sweep, checked.
        sweep_of: From metrics to the result.
        metric: One or several; at least one is a `GenerateMatches`.
        progress: As of `sweep`, for the cells in which the model writes.
    """
    began = perf_counter()
    given = [as_metric(one) for one in (metric if isinstance(metric, list | tuple) else (metric,))]
    names = [one.name for one in given]
    if len(set(names)) < len(names):
        raise ValueRefusedError(f"`metric` must hold metrics of different names. Got {listed(names)}. Write name=.")
    rules = [one for one in given if isinstance(one, GenerateMatches)]
    setup = setup_of(_STAND_IN)
    result = sweep_of([one for one in given if one not in rules] or [_STAND_IN])
    with Progress(progress, len(rules) * len(setup.cells[0])) as shown:
        written = {rule.name: _written(setup, rule, shown.more) for rule in rules}
    return _joined(result, given, written, perf_counter() - began)


def _written(setup: Setup, rule: GenerateMatches, more: Callable[[int], None]) -> tuple[np.ndarray, np.ndarray]:
    """What the rule says of every cell, `(cell, example)`, and of the unedited runs, `(example,)`."""
    values = np.full((len(setup.cells[0]), setup.n_examples), np.nan, np.float32)
    baseline = np.full(setup.n_examples, np.nan, np.float32)
    for batch in setup.batches:
        baseline[list(batch.examples)] = spoken(setup.model, batch.tokens, rule)
    for number in range(len(values)):
        for batch, cells in zip(setup.batches, setup.cells, strict=True):
            values[number, list(batch.examples)] = spoken(setup.model, batch.tokens, rule, cells[number].edits)
        more(1)
    return values, baseline


def _joined(
    result: SweepResult, given: Sequence[Any], written: dict[str, tuple[np.ndarray, np.ndarray]], seconds: float
) -> SweepResult:
    """One result of all metrics."""
    one = "metric" not in result.axes
    sizes = [len(result.coords[axis]) for axis in result.over]
    found, base = [], []
    for metric in given:
        if metric.name in written:
            values, baseline = written[metric.name]
            found.append(values.reshape(*sizes, -1))
            base.append(baseline)
        else:
            at = 0 if one else result.coords["metric"].index(metric.name)
            found.append(result.values if one else result.values[..., at, :])
            base.append(result.baseline if one else result.baseline[at])
    names = tuple(metric.name for metric in given)
    provenance = {**result.provenance, "metrics": list(names), "written": "a full run a cell, then token after token"}
    coords = {name: labels for name, labels in result.coords.items() if name != "metric"}
    if len(given) == 1:
        axes = (*result.over, "example")
        return replace(
            result, values=found[0], baseline=base[0], axes=axes, coords=coords, provenance=provenance, seconds=seconds
        )
    axes = (*result.over, "metric", "example")
    return replace(
        result,
        values=np.stack(found, axis=-2),
        baseline=np.stack(base),
        axes=axes,
        coords={**coords, "metric": names},
        provenance=provenance,
        seconds=seconds,
    )
