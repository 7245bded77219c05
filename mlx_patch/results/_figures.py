"""The plot of a result: a curve for one axis, a heatmap for two."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mlx_patch.errors import ValueRefusedError, listed
from mlx_patch.plot import heatmap, layer_curve, limit_of, new_axes, size_of_heatmap
from mlx_patch.results._axes import is_ordered, label_of
from mlx_patch.results._captions import short_metric, what_was_patched
from mlx_patch.results._coordinates import label_text, where_text
from mlx_patch.results._labelled import Labelled

if TYPE_CHECKING:
    import matplotlib.axes


def draw(result: Labelled, ax: Any = None, title: str = "", limit: float | None = None) -> "matplotlib.axes.Axes":
    """What `SweepResult.plot` returns, for a result of one metric."""
    patched = what_was_patched(result.provenance, result.over)
    title = ", ".join(filter(None, (title, patched, _selection_text(result))))
    if len(result.over) == 1:
        return _draw_curve(result, ax, title)
    if len(result.over) == 2:
        return _draw_heatmap(result, ax, title, limit)
    if not result.over:
        raise ValueRefusedError(
            "`plot` must have one or two axes to draw. Got 0. Read `values`, or choose less with `sel`."
        )
    axis = result.over[-1]
    remedy = f"Choose with `sel`, as in `result.sel({axis}={result.coords[axis][0]!r}).plot()`."
    raise ValueRefusedError(
        f"`plot` must have one or two axes to draw. Got {len(result.over)}: {listed(result.over)}. {remedy}"
    )


def _selection_text(result: Labelled) -> str:
    """The text of the cell coordinates that `sel` fixed."""
    selected = result.provenance.get("selected", {})
    return where_text({axis: label for axis, label in selected.items() if axis != "metric"})


def value_label(result: Labelled) -> str:
    """The label of a plot's values: the metric, its change, or a fraction."""
    name = short_metric(result.metrics, "metric")
    if result.is_normalised:
        return f"{name}\nfraction (0 corrupted, 1 clean)"
    if len(result.over) == 1:
        return name
    return f"change of {name}"


def _draw_curve(result: Labelled, ax: Any, title: str) -> "matplotlib.axes.Axes":
    [axis] = result.over
    labels: Sequence[object] = result.coords[axis]
    is_grouped = any(isinstance(label, tuple) for label in labels)
    if not is_ordered(axis) or is_grouped:
        labels = list(map(label_text, labels))
    low, high = None, None
    if np.count_nonzero(~result.left_out) >= 2:  # an interval over examples needs two
        low, high = result.interval()
    return layer_curve(
        result.mean(),
        labels,
        low=low,
        high=high,
        baseline=float(result.baseline_mean()),
        axis_label=label_of(axis),
        value_label=value_label(result),
        tokens=result.coords.get("token"),
        connected=is_ordered(axis),
        band_label="95% interval of the mean",
        title=title,
        ax=ax,
    )


def _draw_heatmap(result: Labelled, ax: Any, title: str, limit: float | None) -> "matplotlib.axes.Axes":
    rows, columns = rows_and_columns(result)
    means = plotted_values(result)
    if result.over != (rows, columns):
        means = means.T
    tokens = None
    if columns == "pos":
        tokens = result.coords.get("token")
    return heatmap(
        means,
        list(map(label_text, result.coords[rows])),
        list(map(label_text, result.coords[columns])),
        row_label=label_of(rows),
        column_label=label_of(columns),
        value_label=value_label(result),
        center=middle(result),
        limit=limit,
        tokens=tokens,
        upwards=is_ordered(rows),
        title=title,
        ax=ax,
    )


def rows_and_columns(result: Labelled) -> tuple[str, str]:
    """The axes of a heatmap's rows and columns: layers on rows, else positions on columns."""
    first, second = result.over
    if second == "layer" or first == "pos":
        return second, first
    return first, second


def plotted_values(result: Labelled) -> np.ndarray:
    """The values of a heatmap: means minus the baseline's mean, or the means themselves if normalised."""
    if result.is_normalised:
        return result.mean()
    with np.errstate(invalid="ignore"):  # a difference of two infinities is NaN
        return result.mean() - result.baseline_mean()


def middle(result: Labelled) -> float:
    """The value that a heatmap shows in white: the baseline."""
    if not result.is_normalised:
        return 0.0
    baseline = float(result.baseline_mean())
    if not np.isfinite(baseline):
        return 0.0
    return baseline


def draw_pair(denoising: Labelled, noising: Labelled) -> "list[matplotlib.axes.Axes]":
    """Both results on a new figure with one scale: side by side, or one above the other where they are wide."""
    titles = ("denoising: clean put into corrupted", "noising: corrupted put into clean")
    results = (denoising, noising)
    if len(denoising.over) == 2:
        limit = max(limit_of(plotted_values(result), middle(result)) for result in results)
        panels = _heatmap_panels(denoising)
    else:
        limit = None
        panels = new_axes(10.5, 4.4, 1, 2)
    for panel, result, title in zip(panels, results, titles, strict=True):
        draw(result, panel, title, limit)
    if limit is None:
        _share_heights(panels)
    return panels


def _heatmap_panels(result: Labelled) -> "list[matplotlib.axes.Axes]":
    """Two panels of a new figure, each with room for a heatmap of such a result."""
    rows, columns = (len(result.coords[axis]) for axis in rows_and_columns(result))
    width, height = size_of_heatmap(rows, columns, "token" in result.coords)
    if columns > 25:
        return new_axes(width, 2 * height, 2, 1)
    return new_axes(2 * width, height, 1, 2)


def _share_heights(panels: "list[matplotlib.axes.Axes]") -> None:
    ranges = [panel.get_ylim() for panel in panels]
    lowest = min(low for low, _ in ranges)
    highest = max(high for _, high in ranges)
    for panel in panels:
        panel.set_ylim(lowest, highest)
