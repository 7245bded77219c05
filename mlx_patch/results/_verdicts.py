"""Which cells are necessary and which sufficient, from how much denoising restores and noising leaves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from typing_extensions import override

from mlx_patch.errors import KindError, ValueRefusedError
from mlx_patch.results._coordinates import cell_at, where_text

VERDICTS = ("necessary and sufficient", "sufficient only", "necessary only")
_SHOWN = 10
"""How many cells of a verdict a summary prints."""


@dataclass(frozen=True)
class PairRow:
    """A cell of which something can be said.

    Attributes:
        where: Coordinates by axis, with the `token` where positions have one.
        denoising: How much of the clean behaviour patching it restores, a fraction of the clean-corrupted gap.
        noising: How much of it is left when it is corrupted, a fraction of the same gap.
        verdict: `"necessary and sufficient"`, `"sufficient only"` or `"necessary only"`.
    """

    where: Mapping[str, Any]
    denoising: float
    noising: float
    verdict: str


@dataclass(frozen=True)
class PairSummary:
    """Which cells are necessary, sufficient, or both, the strongest first.

    Attributes:
        threshold: The fraction of the gap from which on a cell counts.
        cells: How many cells there are.
        missing: How many of them were not run both ways.
        rows: Those that are one or the other.
        nan: How many were run and have no number: they overflowed, or no example has a gap.
    """

    threshold: float
    cells: int
    missing: int
    rows: tuple[PairRow, ...]
    nan: int = 0

    def of(self, verdict: str) -> tuple[PairRow, ...]:
        """The rows with a verdict."""
        return tuple(row for row in self.rows if row.verdict == verdict)

    @override
    def __str__(self) -> str:
        missing = f", {self.missing} not run" if self.missing else ""
        nan = f", {self.nan} NaN" if self.nan else ""
        lines = [f"threshold {self.threshold:g} of the clean-corrupted gap, {self.cells} cells{missing}{nan}"]
        for verdict in VERDICTS:
            rows = self.of(verdict)
            lines += [f"{verdict}: {len(rows)}", *[_line(row) for row in rows[:_SHOWN]]]
            lines += [f"  and {len(rows) - _SHOWN} more, in `rows`"] if len(rows) > _SHOWN else []
        return "\n".join(lines)


def _line(row: PairRow) -> str:
    restores, leaves = (round(share, 2) + 0.0 for share in (row.denoising, row.noising))  # and never -0.00
    return f"  {where_text(row.where)}: denoising restores {restores:.2f}, noising leaves {leaves:.2f}"


def is_sufficient(denoising: np.ndarray, threshold: float) -> np.ndarray:
    """Where denoising restores so much of the gap or more; not where it is NaN."""
    return np.asarray(denoising >= threshold)


def is_necessary(noising: np.ndarray, threshold: float) -> np.ndarray:
    """Where noising takes so much of the gap or more away; not where it is NaN."""
    return np.asarray(1 - noising >= threshold)


def summary_of(
    denoising: np.ndarray,
    noising: np.ndarray,
    cells_run: np.ndarray,
    axes: Sequence[str],
    coords: Mapping[str, tuple[Any, ...]],
    threshold: float,
) -> PairSummary:
    """The cells by verdict, from means over examples and which cells were run both ways. Shape of each: `(*axes)`."""
    sufficient, necessary = is_sufficient(denoising, threshold), is_necessary(noising, threshold)
    rows = []
    for place in map(tuple, np.argwhere(sufficient | necessary)):
        verdict = VERDICTS[0 if sufficient[place] and necessary[place] else 1 if sufficient[place] else 2]
        rows.append(PairRow(cell_at(place, axes, coords), float(denoising[place]), float(noising[place]), verdict))
    no_number = cells_run & (np.isnan(denoising) | np.isnan(noising))
    missing, nan = int(np.count_nonzero(~cells_run)), int(np.count_nonzero(no_number))
    return PairSummary(threshold, denoising.size, missing, tuple(sorted(rows, key=_rank)), nan)


def _rank(row: PairRow) -> tuple[int, float]:
    """By verdict, then by what it claims: the weaker of the two for both."""
    verdict = VERDICTS.index(row.verdict)
    strength = (min(row.denoising, 1 - row.noising), row.denoising, 1 - row.noising)[verdict]
    return verdict, -strength


def checked_threshold(threshold: object) -> float:
    """A threshold, checked.

    Raises:
        KindError: It is no number.
        ValueRefusedError: It is not above 0, or infinite.
    """
    if not isinstance(threshold, float | int | np.floating) or isinstance(threshold, bool):
        raise KindError(f"`threshold` must be a number. Got {type(threshold).__name__}. Give 0.5.")
    if not (threshold > 0 and isfinite(threshold)):
        raise ValueRefusedError(f"`threshold` must be above 0 and finite. Got {threshold}. Give 0.5.")
    return float(threshold)
