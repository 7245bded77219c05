"""Statistics over examples: means, bootstrap intervals, fractions of a gap. Arrays in, arrays out, in float64."""

import numpy as np

from mlx_patch import arguments
from mlx_patch.errors import ValueRefusedError

_AT_ONCE = 2**22  # resampled means that are held at a time: 32 MiB


_MOST_RESAMPLES = 10**6


def mean_over_examples(values: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    """The mean over the last axis, without the examples left out. NaN if another is NaN, or if none is left.

    Args:
        values: Shape `(..., example)`.
        left_out: Which examples do not count. Shape `(example,)` or `(metric, example)`, the last axes of `values`.
    Returns:
        Shape `(...)`.

    Example:
        >>> mean_over_examples(np.array([[1.0, 3.0, np.nan]]), np.array([False, False, True])).tolist()
        [2.0]
    """
    included = np.broadcast_to(~left_out, values.shape)
    count = included.sum(-1)
    with np.errstate(invalid="ignore"):  # infinities of both signs give NaN
        total = np.where(included, values, 0).sum(-1, dtype=np.float64)
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
    level, resamples, seed = checked_resampling(level, resamples, seed)
    if left_out.ndim == 2:
        lows, highs = [], []
        for metric, excluded in enumerate(left_out):
            low, high = bootstrap_interval(values[..., metric, :], excluded, level, resamples, seed)
            lows.append(low)
            highs.append(high)
        return np.stack(lows, axis=-1), np.stack(highs, axis=-1)
    included = values[..., ~left_out].astype(np.float64)
    n = included.shape[-1]
    shares = resampled_shares(n, resamples, seed)
    quantiles = [(1 - level) / 2, (1 + level) / 2]
    cells = included.reshape(-1, n)
    step = max(1, _AT_ONCE // resamples)
    ends = []
    with np.errstate(invalid="ignore"):
        for start in range(0, len(cells), step):
            means = cells[start : start + step] @ shares.T
            ends.append(np.quantile(means, quantiles, axis=1))
    low, high = np.concatenate(ends, axis=1).reshape(2, *included.shape[:-1])
    return low, high


def resampled_shares(n: int, resamples: int, seed: int) -> np.ndarray:
    """The share that each example has in each resample. Shape `(resample, example)`.

    How often an example is drawn is multinomial, so one matrix product gives the means of all resamples.

    Raises:
        ValueRefusedError: There are fewer than two examples.
    """
    if n < 2:
        raise ValueRefusedError(
            f"`interval` must have two examples or more to resample. Got {n}. Sweep a batch of prompts."
        )
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples) / n


def checked_resampling(level: object, resamples: object, seed: object) -> tuple[float, int, int]:
    """The arguments of a bootstrap interval.

    Raises:
        KindError: `level` is not a number, or `resamples` or `seed` not a whole one.
        ValueRefusedError: An argument is out of its range.
    """
    remedy = "Leave it out for the default."
    return (
        arguments.share("level", level, remedy),
        arguments.whole_number("resamples", resamples, 1, _MOST_RESAMPLES, remedy=remedy),
        arguments.whole_number("seed", seed, 0, remedy=remedy),
    )
