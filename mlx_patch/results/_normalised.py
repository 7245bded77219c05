"""Fractions of the gap between clean and corrupted."""

from dataclasses import replace
from typing import Any
from warnings import warn

import numpy as np

from mlx_patch import arguments
from mlx_patch.errors import DegenerateGapWarning, ShapeError, ValueRefusedError, listed
from mlx_patch.results._labelled import Labelled, Result

ABSOLUTE_GAP = 1e-6
"""A gap between clean and corrupted of this size or less counts as no gap, whatever the metric's unit."""


_SCORES = "a number, an array of numbers or a SweepResult"
RELATIVE_GAP = 1e-5
"""So does a gap of this fraction, or less, of the larger of the two."""


def reference(name: str, scores: object, shape: tuple[int, ...]) -> np.ndarray:
    """The scores of a clean or corrupted run, as an array that broadcasts to `shape`.

    Args:
        name: The argument's name.
        scores: One number, one per example, or one per metric and example.
        shape: `(example,)` or `(metric, example)`.
    Raises:
        KindError: It is no number, and no array of numbers.
        ShapeError: It has another shape.
    """
    array = arguments.numpy_array(name, scores, "Give the metric of that run.", _SCORES).astype(np.float64)
    allowed = ((), shape[-1:], shape)
    if array.shape not in allowed:
        forms = listed_shapes(allowed)
        raise ShapeError(f"`{name}` must have a shape of {forms}. Got {array.shape}. Give one number per example.")
    return array


def listed_shapes(shapes: tuple[tuple[int, ...], ...]) -> str:
    """Shapes without doubles, for a message."""
    return ", ".join(str(shape) for shape in dict.fromkeys(shapes))


def degenerate(clean: np.ndarray, corrupted: np.ndarray) -> np.ndarray:
    """Where clean and corrupted are not finite, or too close to divide by their gap. Shape: of the two, broadcast.

    Example:
        >>> degenerate(np.array([1.0, 2.0, np.inf]), np.array([1.0, 0.0, 0.0])).tolist()
        [True, False, True]
    """
    with np.errstate(invalid="ignore"):
        gap = np.abs(clean - corrupted)
        magnitude = np.maximum(np.abs(clean), np.abs(corrupted))
        threshold = np.maximum(ABSOLUTE_GAP, RELATIVE_GAP * magnitude)
    return np.asarray(~np.isfinite(gap) | (gap <= threshold))


def fraction_of_gap(values: np.ndarray, clean: np.ndarray, corrupted: np.ndarray) -> np.ndarray:
    """Each value on the scale from corrupted (0) to clean (1); NaN where the gap is degenerate.

    Args:
        values: Shape `(..., example)`.
        clean: The clean run's scores. A shape that broadcasts to that of `values`.
        corrupted: The corrupted run's scores. The same.
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
    _refuse_other_start(result)
    scores = {"clean": _scores("clean", clean, result), "corrupted": _scores("corrupted", corrupted, result)}
    excluded = degenerate(**scores) | np.isnan(result.baseline)
    if excluded.any():
        warn(_warning(excluded), DegenerateGapWarning, stacklevel=3)
    values = fraction_of_gap(result.values, **scores)
    baseline = fraction_of_gap(result.baseline, **scores)
    note: dict[str, Any] = {name: array.tolist() for name, array in scores.items()}
    note["left_out"] = int(excluded.sum())
    further = {}
    for name, axes in result.further_arrays.items():
        if axes[-1:] == ("example",):  # numbers in the metric's unit
            further[name] = np.where(excluded, np.float32(np.nan), fraction_of_gap(getattr(result, name), **scores))
    return replace(
        result,
        values=np.where(excluded, np.float32(np.nan), values),
        baseline=np.where(excluded, np.float32(np.nan), baseline),
        provenance={**result.provenance, "normalised": note},
        **further,
    )


def _refuse_other_start(result: Labelled) -> None:
    """Refuse a result that is normalised already, or whose baseline was not run."""
    cell_axes = tuple(range(len(result.over)))
    not_run = np.isnan(result.baseline) & ~result.run_mask.any(axis=cell_axes)
    if result.is_normalised:
        problem = "one that is normalised already"
    elif not_run.any():
        problem = "one whose baseline has NaN, as it was not run"
    else:
        return
    raise ValueRefusedError(
        f"`normalised` must start from a metric's raw values. Got {problem}. Use the sweep's own result, complete."
    )


def _scores(name: str, source: Any, result: Labelled) -> np.ndarray:
    """The scores of a reference run, from numbers or from a result whose unpatched run it was."""
    shape = result.baseline.shape
    if not isinstance(source, Labelled):
        return reference(name, source, shape)
    if source.is_normalised:
        problem = "one that is normalised"
    elif source.metrics != result.metrics:
        problem = f"one of {listed(source.metrics) or 'no name'}"
    else:
        return reference(name, source.baseline, shape)
    raise ValueRefusedError(
        f"`{name}` must be a result of the same metrics, in their own units. Got {problem}. Pass the numbers of that "
        "run."
    )


def _warning(excluded: np.ndarray) -> str:
    subject = f"{int(excluded.sum())} of {excluded.size} examples"
    if excluded.ndim == 2:
        subject = f"{int(excluded.any(0).sum())} of {excluded.shape[1]} examples, for one metric or more,"
    return (
        f"{subject} have no gap between clean and corrupted, or NaN in the unpatched run. They are NaN and left out of "
        "means. Check these prompts, or the metric."
    )
