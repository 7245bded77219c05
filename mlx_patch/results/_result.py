"""`SweepResult`: what a sweep measured, cell by cell and example by example."""

from dataclasses import dataclass
from typing import final

from mlx_patch.results._cell_result import CellResult


@final
@dataclass(frozen=True, eq=False, repr=False)
class SweepResult(CellResult):
    """The result of a sweep: one number per cell and example, with coordinates, the baseline and provenance.

    `values` has the shape `(*over, metric if several, example)`, and `baseline` that of its last axes. What was not run
    is NaN. `Labelled` describes every attribute, and what it refuses.

    Example:
        >>> import numpy as np
        >>> values = np.array([[1, 3], [5, 7]], dtype=np.float32)
        >>> baseline = np.array([1, 1], dtype=np.float32)
        >>> coords = {"layer": (0, 1), "example": (0, 1)}
        >>> result = SweepResult(values, ("layer", "example"), coords, baseline, {})
        >>> result.mean().tolist()
        [2.0, 6.0]
        >>> result.peak()
        layer 1: 6 (baseline 1, effect +5)
    """
