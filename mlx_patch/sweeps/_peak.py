"""`Peak`: the cell of a sweep that changes the metric most."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import override

from mlx_patch.sweeps._coordinates import where_text


@dataclass(frozen=True, repr=False)
class Peak:
    """A cell, and what the metric was there.

    Attributes:
        where: Coordinates by axis; with the `token` where positions have one.
        value: The mean over examples, in the metric's unit (normalised: a fraction of the clean-corrupted gap).
        effect: The value minus the baseline's mean.

    Example:
        >>> Peak({"layer": 12, "pos": 7, "token": " Mary"}, value=3.21, effect=8.43)
        layer 12, pos 7 (' Mary'): 3.21 (baseline -5.22)
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
        return f"{where_text(self.where) or 'the only cell'}: {self.value:.3g} (baseline {self.baseline:.3g})"


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
    found = order[: np.count_nonzero(~np.isnan(effects))][:n]
    return [_peak(means, baseline, np.unravel_index(flat, means.shape), axes, coords) for flat in found]


def _peak(means, baseline, place, axes, coords) -> Peak:
    value = float(means[place])
    return Peak(cell_at(place, axes, coords), value, value - baseline)


def cell_at(place: Sequence[Any], axes: Sequence[str], coords: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """The coordinates of a cell by axis, with its token beside its position.

    Example:
        >>> cell_at((1, 0), ("layer", "pos"), {"layer": (3, 4), "pos": (7,), "token": (" Mary",)})
        {'layer': 4, 'pos': 7, 'token': ' Mary'}
    """
    where: dict[str, Any] = {}
    for axis, index in zip(axes, place, strict=True):
        where[axis] = coords[axis][index]
        where |= {"token": coords["token"][index]} if axis == "pos" and "token" in coords else {}
    return where
