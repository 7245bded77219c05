"""The verdict on each cell, necessary or sufficient, from denoising and noising."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.results._coordinates import cell_at, where_text

VERDICTS = ("necessary and sufficient", "sufficient only", "necessary only")
_SHOWN = 10
"""How many cells of a verdict a summary prints."""


@dataclass(frozen=True)
class PairRow:
    """A cell that is necessary, sufficient, or both.

    Attributes:
        where: Coordinates by axis, with the `token` if positions have one.
        denoising: How much of the clean behaviour the clean activation restores, a fraction of the clean-corrupted gap.
        noising: How much of it the corrupted activation leaves, a fraction of the same gap.
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
        known = arguments.choice("verdict", verdict, VERDICTS)
        return tuple(row for row in self.rows if row.verdict == known)

    @override
    def __str__(self) -> str:
        head = f"threshold {self.threshold:g} of the clean-corrupted gap, {self.cells} cells"
        if self.missing:
            head += f", {self.missing} not run"
        if self.nan:
            head += f", {self.nan} NaN"
        lines = [head]
        for verdict in VERDICTS:
            rows = self.of(verdict)
            lines.append(f"{verdict}: {len(rows)}")
            lines += map(_row_text, rows[:_SHOWN])
            if len(rows) > _SHOWN:
                lines.append(f"  and {len(rows) - _SHOWN} more, in `rows`")
        return "\n".join(lines)


def _row_text(row: PairRow) -> str:
    return (
        f"  {where_text(row.where)}: denoising restores {_share_text(row.denoising)}, "
        f"noising leaves {_share_text(row.noising)}"
    )


def _share_text(share: float) -> str:
    """A share with two digits; adding 0.0 turns -0.00 into 0.00."""
    return f"{round(share, 2) + 0.0:.2f}"


def is_sufficient(denoising: np.ndarray, threshold: float) -> np.ndarray:
    """Where denoising restores at least the threshold of the gap; False where it is NaN."""
    return np.asarray(denoising >= threshold)


def is_necessary(noising: np.ndarray, threshold: float) -> np.ndarray:
    """Where noising takes away at least the threshold of the gap; False where it is NaN."""
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
    sufficient = is_sufficient(denoising, threshold)
    necessary = is_necessary(noising, threshold)
    rows = []
    for place in map(tuple, np.argwhere(sufficient | necessary)):
        where = cell_at(place, axes, coords)
        verdict = _verdict(bool(sufficient[place]), bool(necessary[place]))
        rows.append(PairRow(where, float(denoising[place]), float(noising[place]), verdict))
    is_nan = cells_run & (np.isnan(denoising) | np.isnan(noising))
    return PairSummary(
        threshold,
        cells=denoising.size,
        missing=int(np.count_nonzero(~cells_run)),
        rows=tuple(sorted(rows, key=_rank)),
        nan=int(np.count_nonzero(is_nan)),
    )


def _verdict(sufficient: bool, necessary: bool) -> str:
    if sufficient and necessary:
        return "necessary and sufficient"
    if sufficient:
        return "sufficient only"
    return "necessary only"


def _rank(row: PairRow) -> tuple[int, float]:
    """The sort key: the verdict, then the effect that it claims, which for both is the weaker of the two."""
    restores, takes_away = row.denoising, 1 - row.noising
    strengths = {
        "necessary and sufficient": min(restores, takes_away),
        "sufficient only": restores,
        "necessary only": takes_away,
    }
    return VERDICTS.index(row.verdict), -strengths[row.verdict]


def checked_threshold(threshold: object) -> float:
    """The threshold as a float.

    Raises:
        KindError: It is no number.
        ValueRefusedError: It is not above 0, or infinite.
    """
    return arguments.number("threshold", threshold, above=0, remedy="Give 0.5.")
