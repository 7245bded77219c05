"""Which plot a result is: a curve for one axis, a heatmap for two."""

from typing import TYPE_CHECKING, Any

import numpy as np

from mlx_patch.errors import ValueRefusedError, listed
from mlx_patch.plot import heatmap, layer_curve, limit_of, new_axes, size_of_heatmap
from mlx_patch.results._coordinates import label_text, where_text
from mlx_patch.results._labelled import Labelled

if TYPE_CHECKING:
    import matplotlib.axes


_NAMED = ("site", "cell")
"""Axes whose places have no order."""


_LABELS = {"pos": "position", "alpha": "alpha (share of the source)"}


def draw(result: Labelled, ax: Any = None, title: str = "", limit: float | None = None) -> "matplotlib.axes.Axes":
    """What `SweepResult.plot` returns, for a result of one metric."""
    title = ", ".join(text for text in (title, _fixed(result)) if text)
    if len(result.over) == 1:
        return _curve(result, ax, title)
    if len(result.over) == 2:
        return _heatmap(result, ax, title, limit)
    raise ValueRefusedError(
        f"`plot` must have one or two axes to draw. Got {len(result.over)}{': ' if result.over else ''}"
        f"{listed(result.over)}. {_remedy(result)}"
    )


def _remedy(result: Labelled) -> str:
    if not result.over:
        return "Read `values`, or choose less with `sel`."
    axis = result.over[-1]
    return f"Choose with `sel`, as in `result.sel({axis}={result.coords[axis][0]!r}).plot()`."


def _fixed(result: Labelled) -> str:
    chosen = result.provenance.get("selected", {})
    return where_text({axis: label for axis, label in chosen.items() if axis != "metric"})


def _name(result: Labelled) -> str:
    return result.metrics[0] if result.metrics else "metric"


def value_label(result: Labelled) -> str:
    """What the values of a plot are: the metric, its change, or a fraction."""
    if result.is_normalised:
        return f"{_name(result)}\nfraction (0 corrupted, 1 clean)"
    return _name(result) if len(result.over) == 1 else f"change of {_name(result)}"


def _curve(result: Labelled, ax: Any, title: str) -> "matplotlib.axes.Axes":
    [axis] = result.over
    labels = result.coords[axis]
    numbers = axis not in _NAMED and not any(isinstance(label, tuple) for label in labels)
    several = np.count_nonzero(~result.left_out) >= 2
    low, high = result.interval() if several else (None, None)
    return layer_curve(
        result.mean(),
        labels if numbers else [label_text(label) for label in labels],
        low=low,
        high=high,
        baseline=float(result.baseline_mean()),
        axis_label=_LABELS.get(axis, axis),
        value_label=value_label(result),
        tokens=result.coords.get("token"),
        connected=axis not in _NAMED,
        band_label="95% interval of the mean",
        title=title,
        ax=ax,
    )


def _heatmap(result: Labelled, ax: Any, title: str, limit: float | None) -> "matplotlib.axes.Axes":
    rows, columns = rows_and_columns(result)
    means = plotted_values(result)
    return heatmap(
        means if result.over == (rows, columns) else means.T,
        [label_text(label) for label in result.coords[rows]],
        [label_text(label) for label in result.coords[columns]],
        row_label=_LABELS.get(rows, rows),
        column_label=_LABELS.get(columns, columns),
        value_label=value_label(result),
        center=middle(result),
        limit=limit,
        tokens=result.coords["token"] if columns == "pos" and "token" in result.coords else None,
        upwards=rows not in _NAMED,
        title=title,
        ax=ax,
    )


def rows_and_columns(result: Labelled) -> tuple[str, str]:
    """Which of two axes is drawn on rows and which on columns: layers on rows, else positions on columns."""
    first, second = result.over
    return (second, first) if second == "layer" or (first == "pos" and second != "layer") else (first, second)


def plotted_values(result: Labelled) -> np.ndarray:
    """What a heatmap shows: how far means are from the baseline's, or the means themselves where normalised."""
    with np.errstate(invalid="ignore"):  # a difference of two infinities is NaN
        return result.mean() if result.is_normalised else result.mean() - result.baseline_mean()


def middle(result: Labelled) -> float:
    """The value that a heatmap shows in white: that of the unpatched run."""
    centre = float(result.baseline_mean()) if result.is_normalised else 0.0
    return centre if np.isfinite(centre) else 0.0


def draw_pair(denoising: Labelled, noising: Labelled) -> "list[matplotlib.axes.Axes]":
    """Both results on a new figure with one scale: side by side, or one above the other where they are wide."""
    results = {"denoising: clean put into corrupted": denoising, "noising: corrupted put into clean": noising}
    if len(denoising.over) != 2:
        panels = new_axes(10.5, 4.4, 1, 2)
        drawn_axes = [draw(result, ax, title) for ax, (title, result) in zip(panels, results.items(), strict=True)]
        _share_heights(drawn_axes)
        return drawn_axes
    limit = max(limit_of(plotted_values(result), middle(result)) for result in results.values())
    rows, columns = (len(denoising.coords[axis]) for axis in rows_and_columns(denoising))
    width, height = size_of_heatmap(rows, columns, "token" in denoising.coords)
    wide = columns > 25
    panels = new_axes(width, 2 * height, 2, 1) if wide else new_axes(2 * width, height, 1, 2)
    return [draw(result, ax, title, limit) for ax, (title, result) in zip(panels, results.items(), strict=True)]


def _share_heights(panels: "list[matplotlib.axes.Axes]") -> None:
    ends = [panel.get_ylim() for panel in panels]
    for panel in panels:
        panel.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))
