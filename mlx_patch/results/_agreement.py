"""`Agreement`: how far estimates are from exact numbers, and what a shortlist by them may have missed."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, lgamma, log
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from mlx_patch.errors import ValueRefusedError
from mlx_patch.files import text_written
from mlx_patch.plot import cells_page, html_frame, points_data, scatter
from mlx_patch.results._captions import short_metric
from mlx_patch.results._coordinates import cell_at, where_text

if TYPE_CHECKING:
    import matplotlib.axes

_CONFIDENCE = 0.95

_FRAME = 660
"""The height of the page in a notebook, in pixels."""


@dataclass(frozen=True, repr=False)
class Agreement:
    """Estimated effects beside exact ones, for the cells that were swept.

    Effects are means over examples, less the baseline, in the metric's unit.

    Attributes:
        metric: The name of the metric.
        estimates: The estimated effects. Shape `(swept cell,)`.
        exact: The exact effects. The same shape.
        sampled: Which cells were drawn at random among those that were not the strongest. The same shape.
        n_unswept: How many cells were not swept.
        rank_correlation: Spearman's, between the two; NaN for fewer than two cells or where one is constant.
        sign_agreement: The share of the exact effects, by size, whose sign is the estimated one: so an effect that is
            only rounding has no weight. NaN where all are 0, or estimates have no sign.
        largest_miss: The largest distance between the two in the sample; NaN without a sample.
        largest_miss_at: Where that is, in words; empty without a sample.
        missed_share: An upper bound, at 95% confidence, on the share of the cells outside the shortlist whose exact
            effect is larger than the smallest of the shortlist. NaN without a sample.
        cells: Where each swept cell is, in words.
    Source:
        The bound is Clopper and Pearson 1934, one-sided.
    """

    metric: str
    estimates: np.ndarray = field(repr=False)
    exact: np.ndarray = field(repr=False)
    sampled: np.ndarray = field(repr=False)
    n_unswept: int
    rank_correlation: float
    sign_agreement: float
    largest_miss: float
    largest_miss_at: str
    missed_share: float
    cells: tuple[str, ...] = field(default=(), repr=False)

    def plot(self, ax: Any = None) -> "matplotlib.axes.Axes":
        """Exact effects against estimated ones, with the diagonal on which they agree.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        x_label, y_label = self._labels()
        return scatter(
            {name: (self.estimates[chosen], self.exact[chosen]) for name, chosen in self._groups().items()},
            x_label=x_label,
            y_label=y_label,
            diagonal=True,
            title=", ".join(self._correlations()),
            ax=ax,
        )

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """The same as one HTML page, which loads nothing: each cell's name and both effects where one points.

        Args:
            path: Where to write it as well, whole or not at all; None writes nothing.
        Raises:
            FileError: `path` cannot be written to.
        """
        names = self.cells or tuple(f"cell {number}" for number in range(len(self.exact)))
        groups = self._groups()
        points = {name: (self.estimates[chosen], self.exact[chosen]) for name, chosen in groups.items()}
        labels = {name: [names[index] for index in np.flatnonzero(chosen)] for name, chosen in groups.items()}
        data = points_data(points, labels, *self._labels())
        return text_written(cells_page("Agreement of estimates and exact effects", repr(self), data), path)

    def _repr_html_(self) -> str:
        return html_frame(self.to_html(), _FRAME)

    def _groups(self) -> dict[str, np.ndarray]:
        """Which cells belong to each group that has any."""
        groups = {"the strongest estimates": ~self.sampled, "drawn at random": self.sampled}
        return {name: chosen for name, chosen in groups.items() if chosen.any()}

    def _labels(self) -> tuple[str, str]:
        name = short_metric([self.metric], "metric")
        return f"estimated change of {name}", f"exact change of {name}"

    def _correlations(self) -> list[str]:
        phrases = [f"rank correlation {self.rank_correlation:.2f}"]
        if not np.isnan(self.sign_agreement):
            phrases.append(f"right sign of {self.sign_agreement:.0%} by size")
        return phrases

    @override
    def __repr__(self) -> str:
        swept = len(self.exact)
        phrases = [
            f"{swept} cells swept exactly ({int(self.sampled.sum())} of them drawn at random)",
            *self._correlations(),
        ]
        if self.sampled.any():
            phrases.append(f"largest miss in the sample {self.largest_miss:.3g} at {self.largest_miss_at}")
            phrases.append(
                f"at most {self.missed_share:.0%} of the {self.n_unswept + int(self.sampled.sum())} others exceed the "
                "weakest of the shortlist (95% confidence)"
            )
        return f"{short_metric([self.metric], 'metric')}: " + ", ".join(phrases)


def agreement_of(
    estimates: np.ndarray,
    exact: np.ndarray,
    swept: np.ndarray,
    sampled: np.ndarray,
    axes: Sequence[str],
    coords: Mapping[str, tuple[Any, ...]],
    metric: str,
    signed: bool = True,
) -> Agreement:
    """The agreement of estimates with exact numbers.

    Args:
        estimates: The estimated effect of every cell. Shape `(*axes)`.
        exact: The exact effect where a cell was swept. The same shape.
        swept: Which cells were swept. The same shape.
        sampled: Which of these were drawn at random. The same shape.
        axes: The names of the axes.
        coords: Coordinates by axis.
        metric: The metric's name.
        signed: Whether effects have signs.
    Raises:
        ValueRefusedError: No cell was swept.
    """
    if not swept.any():
        raise ValueRefusedError("`agreement` must have cells that were confirmed. Got none. Pass confirm=20, say.")
    estimated_effects, exact_effects, is_sampled = estimates[swept], exact[swept], sampled[swept]
    misses = np.where(sampled, np.abs(exact - estimates), -1.0)
    place = np.unravel_index(int(np.argmax(misses)), misses.shape)
    largest_miss, largest_miss_at = float("nan"), ""
    if sampled.any():
        largest_miss, largest_miss_at = float(misses[place]), where_text(cell_at(place, axes, coords))
    return Agreement(
        metric=metric,
        estimates=estimated_effects,
        exact=exact_effects,
        sampled=is_sampled,
        n_unswept=int(np.count_nonzero(~swept)),
        rank_correlation=rank_correlation(estimated_effects, exact_effects),
        sign_agreement=_sign_agreement(estimated_effects, exact_effects, signed),
        largest_miss=largest_miss,
        largest_miss_at=largest_miss_at,
        missed_share=_missed_share(exact_effects, is_sampled),
        cells=tuple(where_text(cell_at(place, axes, coords)) for place in np.argwhere(swept).tolist()),
    )


def _sign_agreement(estimates: np.ndarray, exact: np.ndarray, signed: bool) -> float:
    """The share of the exact effects, by size, whose sign is the estimated one; NaN where there are none."""
    sizes = np.abs(exact)
    if not signed or not sizes.any():
        return float("nan")
    return float(sizes[np.sign(estimates) == np.sign(exact)].sum() / sizes.sum())


def _missed_share(exact: np.ndarray, sampled: np.ndarray) -> float:
    if not sampled.any() or sampled.all():
        return float("nan")
    weakest = np.abs(exact[~sampled]).min()
    n_missed = int(np.count_nonzero(np.abs(exact[sampled]) > weakest))
    n_sampled = int(sampled.sum())
    return upper_bound(n_missed, n_sampled, _CONFIDENCE)


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation: that of the ranks, where equal numbers share the mean of theirs.

    Example:
        >>> round(rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([10.0, 30.0, 20.0])), 3)
        0.5
    """
    ranks = [_ranks(numbers) for numbers in (first, second)]
    if len(first) < 2 or any(np.ptp(rank) == 0 for rank in ranks):
        return float("nan")
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(numbers: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + last - 1) / 2)[inverse]


def upper_bound(successes: int, trials: int, confidence: float) -> float:
    """The upper end of Clopper and Pearson's one-sided interval for a share.

    Example:
        >>> round(upper_bound(0, 50, 0.95), 4), round(upper_bound(2, 20, 0.95), 4), upper_bound(3, 3, 0.95)
        (0.0582, 0.2826, 1.0)
    """
    if successes >= trials:
        return 1.0
    low, high = successes / trials, 1.0
    for _ in range(60):  # the probability of so few falls as the share grows
        middle = (low + high) / 2
        if _at_most(successes, trials, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def _at_most(successes: int, trials: int, share: float) -> float:
    """The probability of so many successes or fewer."""
    total = 0.0
    for count in range(successes + 1):
        log_choices = lgamma(trials + 1) - lgamma(count + 1) - lgamma(trials - count + 1)
        total += exp(log_choices + count * log(share or 1e-300) + (trials - count) * log(1 - share or 1e-300))
    return total
