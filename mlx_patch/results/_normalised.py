"""Fractions of the gap between clean and corrupted."""

from dataclasses import replace
from typing import Any
from warnings import warn

import numpy as np

from mlx_patch.errors import DegenerateGapWarning, KindError, ShapeError, ValueRefusedError, listed
from mlx_patch.results._labelled import Labelled, Result

ABSOLUTE_GAP = 1e-6
"""A gap between clean and corrupted of this size or less is none, whatever the metric's unit."""


RELATIVE_GAP = 1e-5
"""Nor is one of this fraction, or less, of the larger of the two."""


def reference(name: str, given: object, shape: tuple[int, ...]) -> np.ndarray:
    """What a clean or corrupted run scored, as an array that spreads over `shape`.

    Args:
        name: The argument's name.
        given: One number, one an example, or one a metric and example.
        shape: `(example,)` or `(metric, example)`.
    Raises:
        KindError: It is no number, and no array of numbers.
        ShapeError: It has another shape.
    """
    try:
        array = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise KindError(
            f"`{name}` must be a number, an array of numbers or a SweepResult. Got {type(given).__name__}. "
            "Give the metric of that run."
        ) from error
    if array.shape not in ((), shape[-1:], shape):
        forms = listed_shapes(((), shape[-1:], shape))
        raise ShapeError(f"`{name}` must have a shape of {forms}. Got {array.shape}. Give one number an example.")
    return array


def listed_shapes(shapes: tuple[tuple[int, ...], ...]) -> str:
    """Shapes without doubles, for a message."""
    return ", ".join(str(shape) for shape in dict.fromkeys(shapes))


def degenerate(clean: np.ndarray, corrupted: np.ndarray) -> np.ndarray:
    """Where clean and corrupted are too near to each other to divide by, or not finite. Shape: of the two together.

    Example:
        >>> degenerate(np.array([1.0, 2.0, np.inf]), np.array([1.0, 0.0, 0.0])).tolist()
        [True, False, True]
    """
    with np.errstate(invalid="ignore"):
        gap = np.abs(clean - corrupted)
        least = np.maximum(ABSOLUTE_GAP, RELATIVE_GAP * np.maximum(np.abs(clean), np.abs(corrupted)))
    return np.asarray(~np.isfinite(gap) | (gap <= least))


def fraction_of_gap(values: np.ndarray, clean: np.ndarray, corrupted: np.ndarray) -> np.ndarray:
    """How far each value lies from corrupted (0) to clean (1); NaN where the gap is degenerate.

    Args:
        values: Shape `(..., example)`.
        clean: What the clean run scored. A shape that spreads over that of `values`.
        corrupted: What the corrupted run scored. The same.
    Returns:
        A fraction of the clean-corrupted gap, in float32. The shape of `values`.
    Source:
        The normalised logit difference of Zhang and Nanda 2023, https://arxiv.org/abs/2309.16042.

    Example:
        >>> fraction_of_gap(np.array([-1.0, 0.0, 3.0]), np.array(3.0), np.array(-1.0)).tolist()
        [0.0, 0.25, 1.0]
    """
    with np.errstate(invalid="ignore"):  # infinities, which are degenerate
        gap = np.where(degenerate(clean, corrupted), np.nan, clean - corrupted)
        return ((values.astype(np.float64) - corrupted) / gap).astype(np.float32)


def normalise(result: Result, clean: Any, corrupted: Any) -> Result:
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


def _numbers(name: str, given: Any, result: Labelled) -> np.ndarray:
    if not isinstance(given, Labelled):
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
