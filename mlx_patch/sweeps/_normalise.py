"""A result in fractions of the gap between the clean and the corrupted run."""

from dataclasses import replace
from typing import Any
from warnings import warn

import numpy as np

from mlx_patch.errors import DegenerateGapWarning, ValueRefusedError, listed
from mlx_patch.sweeps._result import SweepResult
from mlx_patch.sweeps._statistics import degenerate, fraction_of_gap, reference


def in_fractions(result: SweepResult, clean: Any, corrupted: Any) -> SweepResult:
    """What `SweepResult.normalised` returns."""
    cells = tuple(range(len(result.over)))
    not_run = np.isnan(result.baseline) & ~result.run_mask.any(axis=cells)
    if result.is_normalised or not_run.any():
        got = (
            "one that is normalised already"
            if result.is_normalised
            else "one whose baseline has NaN, as it was not run"
        )
        raise ValueRefusedError(
            f"`normalised` must start from a metric's own values. Got {got}. Take the sweep's own result, complete."
        )
    ends = {name: _numbers(name, given, result) for name, given in (("clean", clean), ("corrupted", corrupted))}
    without = degenerate(**ends) | np.isnan(result.baseline)
    if without.any():
        warn(_message(without), DegenerateGapWarning, stacklevel=3)
    fractions = (fraction_of_gap(part, **ends) for part in (result.values, result.baseline))
    values, baseline = (np.where(without, np.float32(np.nan), part) for part in fractions)
    note = {name: end.tolist() for name, end in ends.items()} | {"left_out": int(without.sum())}
    return replace(result, values=values, baseline=baseline, provenance={**result.provenance, "normalised": note})


def _numbers(name: str, given: Any, result: SweepResult) -> np.ndarray:
    if not isinstance(given, SweepResult):
        return reference(name, given, result.baseline.shape)
    if given.is_normalised or given.metrics != result.metrics:
        got = "one that is normalised" if given.is_normalised else f"one of {listed(given.metrics) or 'no name'}"
        raise ValueRefusedError(
            f"`{name}` must be a result of the same metrics, in their own units. Got {got}. Give that run's numbers."
        )
    return reference(name, given.baseline, result.baseline.shape)


def _message(without: np.ndarray) -> str:
    of = f"{int(without.sum())} of {without.size} examples"
    if without.ndim == 2:
        of = f"{int(without.any(0).sum())} of {without.shape[1]} examples, for one metric or more,"
    return (
        f"{of} have no gap between clean and corrupted to be a fraction of, or NaN in the unpatched run: "
        "they are NaN and left out of means. "
        "Check these prompts, or the metric."
    )
