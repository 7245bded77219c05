"""`Peak`: the cells that lie furthest from the unpatched run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.errors import ValueRefusedError
from mlx_patch.results._coordinates import cell_at, where_text
from mlx_patch.results._labelled import Labelled


@dataclass(frozen=True, repr=False)
class Peak:
    """A cell and its metric.

    Attributes:
        where: Coordinates by axis; with the `token` if positions have one.
        value: The mean over examples, in the metric's unit (normalised: a fraction of the clean-corrupted gap).
        effect: The value minus the baseline's mean.

    Example:
        >>> Peak({"layer": 12, "pos": 7, "token": " Mary"}, value=3.21, effect=8.43)
        layer 12, pos 7 (' Mary'): 3.21 (baseline -5.22, effect +8.43)
    """

    where: Mapping[str, Any]
    value: float
    effect: float

    @property
    def baseline(self) -> float:
        """The baseline's mean over examples."""
        return self.value - self.effect

    @override
    def __repr__(self) -> str:
        cell = where_text(self.where) or "the only cell"
        return f"{cell}: {self.value:.3g} (baseline {self.baseline:.3g}, effect {self.effect:+.3g})"


def peaks_of(
    means: np.ndarray, baseline: float, axes: Sequence[str], coords: Mapping[str, tuple[Any, ...]], n: int
) -> list[Peak]:
    """The cells that lie furthest from the baseline, furthest first; equally far ones in the order of the axes.

    Args:
        means: Means over examples. Shape `(*axes)`; cells that are NaN are passed over.
        baseline: The baseline's mean.
        axes: The names of the axes.
        coords: Coordinates by axis.
        n: How many at most.
    """
    with np.errstate(invalid="ignore"):
        effects = (means - baseline).ravel()
    order = np.argsort(-np.abs(effects), kind="stable")  # NaN comes last
    n_numbers = np.count_nonzero(~np.isnan(effects))
    peaks = []
    for index in order[: min(n, n_numbers)]:
        place = np.unravel_index(index, means.shape)
        value = float(means[place])
        peaks.append(Peak(cell_at(place, axes, coords), value, value - baseline))
    return peaks


def largest_effects(result: Labelled, n: int) -> list[Peak]:
    """What `SweepResult.peaks` returns, for a result of one metric."""
    n = arguments.whole_number("n", n, 1, remedy="Give the number of peaks.")
    peaks = peaks_of(result.mean(), float(result.baseline_mean()), result.over, result.coords, n)
    if peaks:
        return peaks
    remedy = "Run the sweep to its end, on examples whose clean and corrupted runs differ."
    if result.complete and not result.left_out.any():
        remedy = "They ran and overflowed: load the model in bfloat16 or float32."
    raise ValueRefusedError(f"`peak` must have at least one cell with a value. Got NaN in all cells. {remedy}")
