"""Curves over one axis, with a band for the interval and a line for the baseline."""

from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from mlx_patch import arguments
from mlx_patch.errors import ShapeError
from mlx_patch.plot._figure import axes_of
from mlx_patch.plot._text import label_ticks, labels_of, texts_of, write_value_label

if TYPE_CHECKING:
    import matplotlib.axes

_GREY = "0.4"
"""The colour of a baseline that all lines share."""


def layer_curve(
    values: np.ndarray,
    layers: Sequence[object],
    *,
    low: np.ndarray | None = None,
    high: np.ndarray | None = None,
    baseline: float | Sequence[float] | np.ndarray | None = None,
    labels: Sequence[str] | None = None,
    axis_label: str = "layer",
    value_label: str = "",
    tokens: Sequence[str] | None = None,
    connected: bool = True,
    band_label: str = "interval",
    title: str = "",
    ax: object = None,
) -> "matplotlib.axes.Axes":
    """One or several curves over layers, or over another axis.

    Args:
        values: Shape `(layer,)` or `(line, layer)`. Curves have gaps at NaN.
        layers: Numbers, which are to scale, or texts, one beside the other.
        low: The lower end of an interval about each value. The shape of `values`.
        high: The upper end. The same.
        baseline: The number of the unpatched run, drawn dashed: one, or one per line.
        labels: Names of the lines, for the legend.
        axis_label: What the layers are.
        value_label: What the values are, with their unit.
        tokens: The token string of each place, written beneath its label.
        connected: Whether lines join the points; not for places that have no order, such as sites.
        band_label: What the interval is, for the legend.
        title: Above the plot.
        ax: Where to draw; by default on a new figure.
    Returns:
        The axes.
    Raises:
        MissingExtraError: matplotlib is not installed.
        ShapeError: Values, layers, ends, baselines or labels differ in number.
    """
    lines = np.atleast_2d(arguments.numpy_array("values", values).astype(np.float64))
    lows, highs = _interval_ends("low", low), _interval_ends("high", high)
    layers, tokens = labels_of("layers", layers), texts_of("tokens", tokens)
    labels, connected = texts_of("labels", labels), arguments.flag("connected", connected)
    for name, label in (("axis_label", axis_label), ("band_label", band_label), ("title", title)):
        arguments.string(name, label)
    _check_values(lines, layers)
    _check_band(lines, lows, highs)
    _check_count("labels", labels, len(lines))
    _check_count("tokens", tokens, len(layers))
    baselines = _baseline_per_line(baseline, len(lines))
    axes = axes_of(ax, *_figure_size(len(layers), bool(tokens)))
    is_scaled = all(isinstance(layer, Real) for layer in layers)
    places = np.arange(len(layers), dtype=np.float64)
    if is_scaled:
        places = np.array(layers, dtype=np.float64)
    names = labels or [None] * len(lines)
    for number, (line, name) in enumerate(zip(lines, names, strict=True)):
        colour = f"C{number % 10}"
        _draw_line(axes, places, line, name, colour, connected)
        if lows is not None and highs is not None:
            _draw_band(axes, places, lows[number], highs[number], colour, connected)
        if baselines:
            _draw_baseline(axes, baselines, number, colour)
    _write_labels(axes, axis_label, value_label, title)
    _set_margins(axes, connected)
    if not is_scaled or tokens is not None:
        label_ticks(axes, "x", layers, tokens, list(places))
    elif all(float(place).is_integer() for place in places):
        axes.locator_params(axis="x", integer=True)
    if labels or baselines or lows is not None:
        _draw_legend(axes, bool(baselines), lows is not None, band_label)
    return axes


def _interval_ends(name: str, ends: np.ndarray | None) -> np.ndarray | None:
    """The ends of intervals with the shape `(line, layer)`; None for None."""
    if ends is None:
        return None
    return np.atleast_2d(arguments.numpy_array(name, ends).astype(np.float64))


def _check_values(lines, layers) -> None:
    if lines.ndim != 2 or lines.shape[1] != len(layers) or lines.size == 0:
        raise ShapeError(
            f"`values` must have one number per layer, shape ({len(layers)},) or (line, {len(layers)}). Got "
            f"{lines.shape}. Give as many layers."
        )


def _check_count(name: str, texts, count: int) -> None:
    if texts is not None and len(texts) != count:
        raise ShapeError(f"`{name}` must have {count} entries. Got {len(texts)}. Give all or none.")


def _check_band(lines, lows, highs) -> None:
    shapes = [_shape_of(lows), _shape_of(highs)]
    if shapes not in ([None, None], [lines.shape, lines.shape]):
        raise ShapeError(
            f"`low` and `high` must both have the shape of `values`, {lines.shape}. Got {shapes}. Give both or neither."
        )


def _shape_of(array) -> tuple[int, ...] | None:
    if array is None:
        return None
    return array.shape


def _figure_size(n_places: int, has_tokens: bool) -> tuple[float, float]:
    """Width and height in inches, with room for tokens beneath the axis."""
    width = min(max(5.5, 2 + 0.16 * n_places), 40.0)
    if has_tokens:
        return width, 4.8
    return width, 4.0


def _baseline_per_line(baseline, n: int) -> list[float]:
    """The baseline of each line; none if there is no baseline."""
    if baseline is None:
        return []
    baselines = arguments.numpy_array("baseline", baseline).astype(np.float64)
    if baselines.shape not in ((), (n,)):
        raise ShapeError(f"`baseline` must be one number, or one per line, ({n},). Got {baselines.shape}.")
    return np.broadcast_to(baselines, n).tolist()


def _draw_line(axes, places, line, name: str | None, colour: str, connected: bool) -> None:
    style = "none"
    if connected:
        style = "-"
    axes.plot(places, line, marker="o", markersize=3.5, linewidth=1.4, label=name, color=colour, linestyle=style)


def _draw_band(axes, places, low, high, colour: str, connected: bool) -> None:
    if connected:
        axes.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)
    else:
        axes.vlines(places, low, high, color=colour, linewidth=1.2)


def _draw_baseline(axes, baselines: list[float], number: int, colour: str) -> None:
    """A dashed line in the colour of its curve, or in grey if all baselines are the same."""
    if len(set(baselines)) == 1:
        colour = _GREY
    axes.axhline(baselines[number], color=colour, linestyle="--", linewidth=1, zorder=1)


def _write_labels(axes, axis_label: str, value_label: str, title: str) -> None:
    axes.set_xlabel(axis_label, parse_math=False)
    write_value_label(axes, value_label, axes.bbox.height / axes.figure.dpi)
    axes.set_title(title, fontsize="medium", parse_math=False)
    axes.grid(alpha=0.25)


def _set_margins(axes, connected: bool) -> None:
    """Narrow margins for curves; wide ones for separate points, of which there may be one or two."""
    if connected:
        axes.margins(x=0.02)
    else:
        axes.margins(x=0.15)


def _draw_legend(axes, has_baseline: bool, has_band: bool, band_label: str) -> None:
    """A legend of the lines that have names, the baseline and the band."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles, names = axes.get_legend_handles_labels()
    if has_baseline:
        handles.append(Line2D([], [], color=_GREY, linestyle="--", linewidth=1))
        names.append("unpatched")
    if has_band:
        handles.append(Patch(color="0.5", alpha=0.25, linewidth=0))
        names.append(band_label)
    for text in axes.legend(handles, names, fontsize="small", framealpha=0.85).get_texts():
        text.set_parse_math(False)
