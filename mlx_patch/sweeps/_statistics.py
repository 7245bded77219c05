"""Statistics over examples: means, bootstrap intervals, fractions of a gap. Arrays in, arrays out, in float64."""

from numbers import Integral

import numpy as np

from mlx_patch.errors import KindError, ShapeError, ValueRefusedError

ABSOLUTE_GAP = 1e-6
"""A gap between clean and corrupted of this size or less is none, whatever the metric's unit."""

RELATIVE_GAP = 1e-5
"""Nor is one of this fraction, or less, of the larger of the two."""

_AT_ONCE = 2**22  # resampled means that are held at a time: 32 MiB


def mean_over_examples(values: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    """The mean over the last axis, without what is left out. NaN where something else is NaN, or nothing is left.

    Args:
        values: Shape `(..., example)`.
        left_out: Which examples do not count. Shape `(example,)` or `(metric, example)`, the last axes of `values`.
    Returns:
        Shape `(...)`.

    Example:
        >>> mean_over_examples(np.array([[1.0, 3.0, np.nan]]), np.array([False, False, True])).tolist()
        [2.0]
    """
    kept = np.broadcast_to(~left_out, values.shape)
    count = kept.sum(-1)
    with np.errstate(invalid="ignore"):  # infinities of both signs give NaN
        total = np.where(kept, values, 0).sum(-1, dtype=np.float64)
    return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)


def bootstrap_interval(
    values: np.ndarray, left_out: np.ndarray, level: float, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The percentile bootstrap interval of the mean over the last axis.

    Each resample draws as many examples as there are, with replacement, and the same ones for every cell. For few
    examples the interval is too short: of 10 normal numbers a 95% one covers the mean 90% of the time.

    Args:
        values: Shape `(..., example)`.
        left_out: Which examples do not count. Shape `(example,)` or `(metric, example)`, the last axes of `values`.
        level: The share of resampled means that lie inside.
        resamples: How many are drawn.
        seed: Of the random numbers.
    Returns:
        Low and high. Shape `(...)` each; NaN where a number is NaN or infinite.
    Raises:
        KindError: `level` is not a number, or `resamples` or `seed` not a whole one.
        ValueRefusedError: There are fewer than two examples, or an argument is out of its range.
    Source:
        Efron 1979, https://doi.org/10.1214/aos/1176344552.
    """
    _check(level, resamples, seed)
    if left_out.ndim == 2:
        each = [bootstrap_interval(values[..., m, :], out, level, resamples, seed) for m, out in enumerate(left_out)]
        return np.stack([low for low, _ in each], axis=-1), np.stack([high for _, high in each], axis=-1)
    kept = values[..., ~left_out].astype(np.float64)
    n = kept.shape[-1]
    if n < 2:
        raise ValueRefusedError(
            f"`interval` must have two examples or more to resample. Got {n}. Sweep a batch of prompts."
        )
    shares = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples) / n
    cells = kept.reshape(-1, n)
    step = max(1, _AT_ONCE // resamples)
    with np.errstate(invalid="ignore"):
        ends = [_ends(cells[start : start + step] @ shares.T, level) for start in range(0, len(cells), step)]
    low, high = np.concatenate(ends, axis=1).reshape(2, *kept.shape[:-1])
    return low, high


def _ends(means: np.ndarray, level: float) -> np.ndarray:
    return np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=1)


def _check(level: object, resamples: object, seed: object) -> None:
    if not isinstance(level, float | int | np.floating) or isinstance(level, bool):
        raise KindError(f"`level` must be a number. Got {type(level).__name__}. Give 0.95.")
    if not 0 < level < 1:
        raise ValueRefusedError(f"`level` must be between 0 and 1. Got {level}. Give 0.95.")
    for name, given, least in (("resamples", resamples, 1), ("seed", seed, 0)):
        if not isinstance(given, Integral) or isinstance(given, bool):
            raise KindError(f"`{name}` must be an int. Got {type(given).__name__}. Leave it out for the default.")
        if given < least:
            raise ValueRefusedError(f"`{name}` must be {least} or more. Got {given}. Leave it out for the default.")


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
