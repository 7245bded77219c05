"""Sweeps in which some metrics let the model write and others do not: one sweep of each kind, put together."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mlx_patch.errors import KindError
from mlx_patch.execution import SweepOutcome
from mlx_patch.execution.readouts import require_tokenizer
from mlx_patch.metrics import GenerateMatches, Metric, as_metric, refuse_same_names
from mlx_patch.model import HookedModel
from mlx_patch.results import SweepResult


def refuse_with_both(**given: object) -> None:
    """Refuse what two sweeps cannot share.

    Raises:
        KindError: A checkpoint, or several ranks.
    """
    for name, value in given.items():
        if value is not None:
            raise KindError(
                f"`{name}` must be left out where GenerateMatches stands beside metrics that are none. Got {value!r}. "
                "Sweep the others with it, and GenerateMatches by itself."
            )


def sweep_both(model: HookedModel, sweep_of: Callable[[list[Metric], bool], SweepOutcome], metric: Any) -> SweepResult:
    """Metrics of both kinds, in the order in which they were given.

    Args:
        model: The model.
        sweep_of: From metrics, and whether progress is shown, to the result.
        metric: Several, of which at least one is a `GenerateMatches` and one is none.
    """
    given, rules, others = sorted_out(model, metric)
    result, interrupted = sweep_of(others, False)
    try:
        written = None if interrupted else sweep_of(rules, True)[0]
    except KeyboardInterrupt:  # nothing is written; what was measured before is kept
        written = None
    return _joined(result, written, given)


def sorted_out(model: HookedModel, metric: Any) -> tuple[list[Metric], list[Metric], list[Metric]]:
    """All metrics, those that let the model write, and the others.

    Raises:
        ValueRefusedError: Two have the same name.
        KindError: The model has no tokenizer.
    """
    given = [as_metric(one) for one in (metric if isinstance(metric, list | tuple) else (metric,))]
    refuse_same_names(given)
    rules = [one for one in given if isinstance(one, GenerateMatches)]
    require_tokenizer(model, rules[0])
    return given, [*rules], [one for one in given if not isinstance(one, GenerateMatches)]


def _joined(result: SweepResult, written: SweepResult | None, given: Sequence[Metric]) -> SweepResult:
    """One result of all metrics; NaN for what was not written."""
    names = tuple(metric.name for metric in given)
    said = [metric.name for metric in given if isinstance(metric, GenerateMatches)]
    values = np.full(
        (*result.values.shape[: len(result.over)], len(names), result.values.shape[-1]), np.nan, np.float32
    )
    baseline = np.full((len(names), values.shape[-1]), np.nan, np.float32)
    mask = np.zeros(values.shape, bool)
    for part in (result, *(() if written is None else (written,))):
        own = [name for name in names if (name in said) == (part is written)]
        at = [names.index(name) for name in own]
        values[..., at, :] = part.values.reshape(*values.shape[:-2], len(own), -1)
        mask[..., at, :] = part.run_mask.reshape(*values.shape[:-2], len(own), -1)
        baseline[at] = part.baseline.reshape(len(own), -1)
    parts = [part for part in (result, written) if part is not None]
    provenance = {
        **result.provenance,
        "metrics": list(names),
        "token_layers": sum(part.provenance["token_layers"] for part in parts),
    }
    plan = result.plan
    if written is not None:
        provenance["written"] = written.provenance["written"]
        plan = replace(plan, written=written.plan.token_layers + written.plan.written)
    coords = {name: labels for name, labels in result.coords.items() if name != "metric"}
    return replace(
        result,
        values=values,
        run_mask=mask,
        baseline=baseline,
        axes=(*result.over, "metric", "example"),
        coords={**coords, "metric": names},
        provenance=provenance,
        plan=plan,
        seconds=sum(part.seconds or 0.0 for part in parts),
    )
