"""`SweepResult`: what a sweep measured, cell by cell and example by example.

The class is a facade. Each of its larger methods is a module beside this one that uses the public attributes alone, and
is imported where it is called, since it knows this class in turn.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from mlx_patch.sweeps._arrays import check_baseline, json_value, locked, mask_of_runs
from mlx_patch.sweeps._coordinates import checked_axes, checked_coords
from mlx_patch.sweeps._frames import data_array, long_frame
from mlx_patch.sweeps._peak import Peak
from mlx_patch.sweeps._statistics import bootstrap_interval, mean_over_examples

if TYPE_CHECKING:
    import matplotlib.axes
    import pandas
    import xarray


@dataclass(frozen=True, eq=False, repr=False)
class SweepResult:
    """One number a cell and example, with the coordinates of the cells, the unpatched run, and where it all came from.

    What was not run is NaN. `run_mask` tells it from a NaN that was computed, by a model that overflows in float16,
    say. In a normalised result an example whose baseline is NaN has no gap between clean and corrupted, and means leave
    it out.

    Attributes:
        values: In the metric's unit, float32, read-only. Shape `(*over, metric if several, example)`.
        axes: The names of its axes: those of `over` in its order, `metric` where there are several, `example`.
        coords: Coordinates by axis: layers, absolute positions, heads, ...; groups that are patched together are
            tuples. `token` holds the token strings along `pos`.
        baseline: The metric of the unpatched run, float32, read-only. Shape `(metric if several, example)`.
        provenance: JSON values: versions, model, tokens, edits, executor, `metrics` by name.
        plan: How the sweep was run: a value with `as_dict()` and a `str`.
        seconds: How long it took. Files that `save` writes leave it out, so that equal numbers give equal files.
        run_mask: Which values were run, bool, read-only. The shape of `values`. Made without one, a result takes for
            run what is not NaN.
    Raises:
        KindError: The arrays are not float32, the mask is not bool, or the provenance is not JSON.
        ShapeError: Values, coordinates, baseline and mask do not fit together.
        UnknownNameError: An axis is unknown, or coordinates belong to none.
        ValueRefusedError: Axes are out of order, or empty, or coordinates there twice.

    Example:
        >>> values = np.array([[1, 3], [5, 7]], dtype=np.float32)
        >>> baseline = np.array([1, 1], dtype=np.float32)
        >>> coords = {"layer": (0, 1), "example": (0, 1)}
        >>> result = SweepResult(values, ("layer", "example"), coords, baseline, {})
        >>> result.mean().tolist()
        [2.0, 6.0]
        >>> result.peak()
        layer 1: 6 (baseline 1)
    """

    values: np.ndarray
    axes: tuple[str, ...]
    coords: Mapping[str, tuple[Any, ...]]
    baseline: np.ndarray
    provenance: Mapping[str, Any]
    plan: Any = None
    seconds: float | None = None
    run_mask: Any = None

    def __post_init__(self) -> None:
        axes = checked_axes(self.axes)
        values, baseline = locked("values", self.values), locked("baseline", self.baseline)
        coords = checked_coords(self.coords, axes, values.shape)
        check_baseline(baseline, axes, values.shape)
        checked = {"values": values, "axes": axes, "coords": coords, "baseline": baseline}
        for name, value in (checked | {"provenance": json_value("provenance", self.provenance)}).items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "run_mask", mask_of_runs(self.run_mask, values, baseline))

    @property
    def is_normalised(self) -> bool:
        """Whether the values are fractions of the clean-corrupted gap."""
        return "normalised" in self.provenance

    @property
    def over(self) -> tuple[str, ...]:
        """The axes of the cells: without `metric` and `example`."""
        return tuple(axis for axis in self.axes if axis not in ("metric", "example"))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics, from the coordinates or, where there is one, from the provenance if it says."""
        chosen = self.provenance.get("selected", {}).get("metric")
        named = [chosen] if chosen else self.provenance.get("metrics", [])
        return self.coords.get("metric") or tuple(named)

    @property
    def left_out(self) -> np.ndarray:
        """Which examples have no gap between clean and corrupted; none if not normalised. The shape of `baseline`."""
        return np.isnan(self.baseline) & self.is_normalised

    @property
    def complete_cells(self) -> np.ndarray:
        """Which cells were run for every metric and example. Shape: the axes of `over`."""
        return np.asarray((self.run_mask | self.left_out).all(axis=tuple(range(len(self.over), len(self.axes)))))

    @property
    def missing(self) -> int:
        """How many cells were not run for every metric and example. Numbers that overflowed are not missing."""
        return int(np.count_nonzero(~self.complete_cells))

    @property
    def complete(self) -> bool:
        """Whether every cell was run."""
        return self.missing == 0

    def mean(self) -> np.ndarray:
        """The mean over examples; NaN where one is NaN or was not run. Shape: `values` without its last axis."""
        return mean_over_examples(self.values, self.left_out)

    def baseline_mean(self) -> np.ndarray:
        """The baseline's mean over examples. Shape `()`, or `(metric,)`."""
        return mean_over_examples(self.baseline, self.left_out)

    def interval(self, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Low and high end of the mean's percentile bootstrap interval over examples.

        It says how far the mean would move with other examples of the same kind, one cell at a time; it knows nothing
        of how many cells were looked at. With few examples it is too short.

        Args:
            level: The share of resampled means inside.
            resamples: How many times the examples are drawn again.
            seed: Of the draws.
        Returns:
            Two arrays with the shape of `mean()`.
        Raises:
            ValueRefusedError: There are fewer than two examples, or an argument is out of its range.
            KindError: An argument is no number.
        """
        return bootstrap_interval(self.values, self.left_out, level, resamples, seed)

    def normalised(self, *, clean: Any, corrupted: Any) -> "SweepResult":
        """The result in fractions of the gap: 0 is the corrupted run, 1 the clean run; example by example.

        An example of which clean and corrupted are within 1e-6, or within 1e-5 of the larger, or not finite, becomes
        NaN, its baseline too, and is left out of means; and so is one whose baseline was computed to be NaN.

        Args:
            clean: The metric of the clean run: a number, one an example, one a metric and example, or a SweepResult
                whose unpatched run it was.
            corrupted: The metric of the corrupted run. The same.
        Raises:
            ValueRefusedError: The result is normalised already, its baseline was not run, or another result has other
                metrics.
            ShapeError: A reference has another shape.
            KindError: A reference is no number.
        Warns:
            DegenerateGapWarning: Examples are left out.
        """
        from mlx_patch.sweeps._normalise import in_fractions

        return in_fractions(self, clean, corrupted)

    def sel(self, **labels: Any) -> "SweepResult":
        """The part of the result with these coordinates, as xarray's `sel` gives it.

        One label drops its axis, and the provenance notes it as `selected`; a list or a range keeps it. A tuple is one
        label, of places that were patched together. Along layers, positions, heads and neurons a negative number counts
        from the end of those that were swept. `example` is always kept.

        Args:
            labels: Coordinates by axis: `layer=3`, `pos=[4, -1]`, `metric="kl"`.
        Raises:
            UnknownNameError: The result has no such axis.
            SelectionError: No such coordinate is there.
            KindError: It is no coordinate.
            ValueRefusedError: A list is empty, or names a coordinate twice.

        Example:
            >>> coords = {"layer": (0, 1), "pos": (5, 6), "example": (0,)}
            >>> values = np.arange(4, dtype=np.float32).reshape(2, 2, 1)
            >>> result = SweepResult(values, ("layer", "pos", "example"), coords, np.zeros(1, dtype=np.float32), {})
            >>> result.sel(pos=6).values.tolist()
            [[1.0], [3.0]]
        """
        from mlx_patch.sweeps._select import selected

        return selected(self, labels)

    def of_metric(self, metric: str | None) -> "SweepResult":
        """The result of one metric; itself where there is only one.

        Raises:
            ValueRefusedError: There are several and `metric` is None, or there is one and `metric` is another.
            SelectionError: There is no such metric.
        """
        from mlx_patch.sweeps._select import one_metric

        return one_metric(self, metric)

    def peak(self, metric: str | None = None) -> Peak:
        """The cell whose mean over examples lies furthest from the baseline's, in either direction.

        Args:
            metric: Which, where there are several.
        Raises:
            ValueRefusedError: There are several metrics and none is named, or no cell has a value.
            SelectionError: There is no such metric.
        """
        return self.peaks(1, metric)[0]

    def peaks(self, n: int, metric: str | None = None) -> list[Peak]:
        """The `n` cells whose means lie furthest from the baseline's, furthest first.

        Args:
            n: How many; fewer if there are not as many cells.
            metric: Which, where there are several.
        Raises:
            KindError: `n` is no whole number.
            ValueRefusedError: `n` is below 1, there are several metrics and none is named, or no cell has a value.
            SelectionError: There is no such metric.
        """
        from mlx_patch.sweeps._select import furthest

        return furthest(self.of_metric(metric), n)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file, whole or not at all, whose bytes depend on numbers, coordinates, plan and provenance alone.

        It is an `.npz` file: `numpy.load` reads `values` and `baseline`, and everything else is JSON in `about.json`.

        Raises:
            FileError: `path` cannot be written to, or does not end in `.npz`.
        """
        from mlx_patch.sweeps._stored import save_result

        save_result(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "SweepResult":
        """Read what `save` wrote.

        Raises:
            FileError: There is no such file, or it is damaged, of another kind, or of another version.
        """
        from mlx_patch.sweeps._stored import load_result

        return load_result(path)

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The result as JSON text, for reading and for other programs; written to `path` if given, whole or not at all.

        NaN is `null`, infinities are strings. Where cells are missing, `run_mask` says which values were run. It has
        `seconds`, which files that `save` writes have not.

        Raises:
            FileError: `path` cannot be written to.
        """
        from mlx_patch.sweeps._stored import result_as_json

        return result_as_json(self, path)

    def to_pandas(self) -> "pandas.DataFrame":
        """A long table, one row a cell, metric and example: a column an axis, `token`, `value` and `baseline`.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return long_frame(self.values, self.axes, self.coords, self.baseline)

    def to_xarray(self) -> "xarray.DataArray":
        """The values as a DataArray with all coordinates, `token` and `baseline` among them; groups are texts, `4-6`.

        Raises:
            MissingExtraError: xarray is not installed.
        """
        return data_array(self.values, self.axes, self.coords, self.baseline, self.provenance)

    def plot(self, ax: Any = None, metric: str | None = None) -> "matplotlib.axes.Axes":
        """Means over examples: a curve for one axis, with a 95% interval; a heatmap for two, layers upwards.

        A curve shows values beside the unpatched run's. A heatmap shows by how much values differ from it, or, where
        normalised, the fractions, with the unpatched run in the middle of the scale.

        Args:
            ax: Where to draw; by default on a new figure.
            metric: Which, where there are several.
        Returns:
            The axes; `.figure.savefig(path)` writes the figure.
        Raises:
            MissingExtraError: matplotlib is not installed.
            ValueRefusedError: There are more than two axes, or none; or several metrics and none is named.
        """
        from mlx_patch.sweeps._drawing import draw

        return draw(self.of_metric(metric), ax)

    @override
    def __repr__(self) -> str:
        from mlx_patch.sweeps._describe import description

        return description(self)
