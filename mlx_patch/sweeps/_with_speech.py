"""Sweeps that let the model write in every cell: the other metrics as ever, and what is written cell by cell."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np

from mlx_patch.errors import KindError
from mlx_patch.metrics import Entropy, GenerateMatches, Metric, as_metric
from mlx_patch.sweeps._planned import Plan
from mlx_patch.sweeps._progress import Progress
from mlx_patch.sweeps._reading import refuse_same_names
from mlx_patch.sweeps._result import SweepResult
from mlx_patch.sweeps._setup import Setup
from mlx_patch.sweeps._speaking import most_spoken, refuse_silence, spoken

STAND_IN = Entropy(name="stand-in")
"""What a sweep is set up with where all its metrics let the model write."""


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
    unrun_of: Callable[[Setup], SweepResult],
    metric: Any,
    progress: Any,
) -> SweepResult:
    """A sweep with metrics that let the model write, in the order in which all metrics were given.

    Args:
        setup_of: From metrics to the sweep, checked.
        sweep_of: From metrics to the result.
        unrun_of: From a sweep to a result without numbers, where there are no other metrics.
        metric: One or several; at least one is a `GenerateMatches`.
        progress: As of `sweep`, for the cells in which the model writes.
    """
    began = perf_counter()
    given, rules, others = sorted_out(metric)
    setup = setup_of(STAND_IN)
    refuse_silence(setup.model, rules[0])
    result = sweep_of(others) if others else unrun_of(setup)
    with Progress(progress, len(rules) * len(setup.cells[0])) as shown:
        written = {rule.name: _written(setup, rule, shown.more) for rule in rules}
    result = replace(result, plan=replace(result.plan, written=most_written(setup, rules, result.plan, bool(others))))
    return _joined(result, given, written, perf_counter() - began)


def sorted_out(metric: Any) -> tuple[list[Metric], list[GenerateMatches], list[Metric]]:
    """All metrics, those that let the model write, and the others.

    Raises:
        ValueRefusedError: Two have the same name.
    """
    given = [as_metric(one) for one in (metric if isinstance(metric, list | tuple) else (metric,))]
    refuse_same_names(given)
    others = [one for one in given if not isinstance(one, GenerateMatches)]
    return given, [one for one in given if isinstance(one, GenerateMatches)], others


def most_written(setup: Setup, rules: Sequence[GenerateMatches], plan: Plan, beside: bool) -> int:
    """The token-layers that writing takes at most, without what the plan has of them already.

    Args:
        setup: The sweep.
        rules: What lets the model write.
        plan: Of the other metrics; or where there are none, of the prompts of the first rule.
        beside: Whether there are others.
    """
    prompts = [batch.tokens for batch in setup.asked.batches]
    each = sum(most_spoken(plan.n_layers, tokens, rule) for rule in rules for tokens in prompts)
    return each * (1 + len(setup.cells[0])) - (0 if beside else plan.token_layers)


def _written(setup: Setup, rule: GenerateMatches, more: Callable[[int], None]) -> tuple[np.ndarray, np.ndarray, int]:
    """What the rule says of every cell, `(cell, example)`, and of the unedited runs, `(example,)`; and its cost."""
    values = np.full((len(setup.cells[0]), setup.n_examples), np.nan, np.float32)
    baseline = np.full(setup.n_examples, np.nan, np.float32)
    cost = 0
    for batch in setup.batches:
        baseline[list(batch.examples)], own = spoken(setup.model, batch.tokens, rule)
        cost += own
    for number in range(len(values)):
        for batch, cells in zip(setup.batches, setup.cells, strict=True):
            found, own = spoken(setup.model, batch.tokens, rule, cells[number].edits)
            values[number, list(batch.examples)] = found
            cost += own
        more(1)
    return values, baseline, cost


def _joined(
    result: SweepResult, given: Sequence[Any], written: dict[str, tuple[np.ndarray, np.ndarray, int]], seconds: float
) -> SweepResult:
    """One result of all metrics."""
    one = "metric" not in result.axes
    sizes = [len(result.coords[axis]) for axis in result.over]
    found, base = [], []
    for metric in given:
        if metric.name in written:
            values, baseline, _ = written[metric.name]
            found.append(values.reshape(*sizes, -1))
            base.append(baseline)
        else:
            at = 0 if one else result.coords["metric"].index(metric.name)
            found.append(result.values if one else result.values[..., at, :])
            base.append(result.baseline if one else result.baseline[at])
    names = tuple(metric.name for metric in given)
    cost = result.provenance["token_layers"] + sum(own for *_, own in written.values())
    said = {"metrics": list(names), "token_layers": cost, "written": "a full run a cell, then token after token"}
    provenance = {**result.provenance, **said}
    coords = {name: labels for name, labels in result.coords.items() if name != "metric"}
    several = len(given) > 1
    return replace(
        result,
        values=np.stack(found, axis=-2) if several else found[0],
        baseline=np.stack(base) if several else base[0],
        axes=(*result.over, *(["metric"] if several else []), "example"),
        coords={**coords, "metric": names} if several else coords,
        provenance=provenance,
        seconds=seconds,
    )
