"""`CellResult`: numbers cell by cell, with what every result of cells can do.

The class is a facade: each of its larger methods is a function of a module beside this one.
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from typing_extensions import override

from mlx_patch.results._figures import draw
from mlx_patch.results._files import load_result, result_as_json, save_result
from mlx_patch.results._labelled import Labelled
from mlx_patch.results._normalised import normalise
from mlx_patch.results._page import result_frame, result_page
from mlx_patch.results._peaks import Peak, largest_effects
from mlx_patch.results._selection import average, one_metric, select
from mlx_patch.results._tables import data_array, long_frame
from mlx_patch.results._text import description

if TYPE_CHECKING:
    import matplotlib.axes
    import pandas
    import xarray


@dataclass(frozen=True, eq=False, repr=False)
class CellResult(Labelled):
    """One number per cell and example. `SweepResult` and `Estimate` are the two kinds."""

    def normalised(self, *, clean: Any, corrupted: Any) -> Self:
        """The result in fractions of each example's gap: 0 is the corrupted run, 1 the clean run.

        An example whose clean and corrupted numbers are within 1e-6, or within 1e-5 of the larger, or not finite,
        becomes NaN, its baseline too, and is left out of means; and so is one whose baseline was computed to be NaN.

        Args:
            clean: The metric of the clean run: a number, one per example, one per metric and example, or a SweepResult
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
        return normalise(self, clean, corrupted)

    def sel(self, **labels: Any) -> Self:
        """The result at these coordinates, as xarray's `sel` selects them.

        One label drops its axis, and the provenance notes it as `select`; a list or a range keeps it. A tuple is one
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
            >>> import numpy as np
            >>> from mlx_patch.results import SweepResult
            >>> coords = {"layer": (0, 1), "pos": (5, 6), "example": (0,)}
            >>> values = np.arange(4, dtype=np.float32).reshape(2, 2, 1)
            >>> result = SweepResult(values, ("layer", "pos", "example"), coords, np.zeros(1, dtype=np.float32), {})
            >>> result.sel(pos=6).values.tolist()
            [[1.0], [3.0]]
        """
        return select(self, labels)

    def averaged(self, axis: str) -> Self:
        """The means along an axis of cells, such as seeds, as a result without it; NaN where a cell was not run.

        The provenance notes it as `averaged`.

        Raises:
            UnknownNameError: The cells have no such axis.
            ValueRefusedError: It is their only one.
        """
        return average(self, axis)

    def of_metric(self, metric: str | None) -> Self:
        """The result of one metric; itself where there is only one.

        Raises:
            ValueRefusedError: There are several and `metric` is None, or there is one and `metric` is another.
            SelectionError: There is no such metric.
        """
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
        return largest_effects(self.of_metric(metric), n)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file atomically; its bytes depend on numbers, coordinates, plan and provenance alone.

        It is an `.npz` file: `numpy.load` reads `values` and `baseline`, and everything else is JSON in `about.json`.

        Raises:
            FileError: `path` cannot be written to, or does not end in `.npz`.
        """
        save_result(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises:
            FileError: There is no such file, or it is damaged, of another kind, or of another version.
        """
        return load_result(cls, path)

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The result as JSON text, for reading and for other programs; written to `path` if given, whole or not at all.

        NaN is `null`, infinities are strings. Where cells are missing, `run_mask` says which values were run. It has
        `seconds`, which files that `save` writes have not.

        Raises:
            FileError: `path` cannot be written to.
        """
        return result_as_json(self, path)

    def to_pandas(self) -> "pandas.DataFrame":
        """A long table, one row per cell, metric and example: a column per axis, `token`, `value` and `baseline`.

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

        A curve shows values beside the baseline. A heatmap shows values minus the baseline, or, if normalised, the
        fractions, with the baseline in the middle of the scale.

        Args:
            ax: Where to draw; by default on a new figure.
            metric: Which, where there are several.
        Returns:
            The axes; `.figure.savefig(path)` writes the figure.
        Raises:
            MissingExtraError: matplotlib is not installed.
            ValueRefusedError: There are more than two axes, or none; or several metrics and none is named.
        """
        return draw(self.of_metric(metric), ax)

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """The result as one HTML page, which loads nothing: a heatmap or a curve, with its numbers where one points.

        It has pickers for metrics, examples and further axes, and the same as text. It follows the dark or light mode
        of who reads it, and the arrow keys.

        Args:
            path: Where to write it as well, whole or not at all; None writes nothing.
        Raises:
            FileError: `path` cannot be written to.
        """
        return result_page(self, path)

    def _repr_html_(self) -> str:
        return result_frame(self)

    @override
    def __repr__(self) -> str:
        return description(self)
