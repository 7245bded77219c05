"""Curves over one axis, with a band for the interval and a line for what was before."""

from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from mlx_patch.errors import ShapeError
from mlx_patch.plot._figure import axes_of
from mlx_patch.plot._text import label_ticks, write_value_label

if TYPE_CHECKING:
    import matplotlib.axes


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
        baseline: What each line is compared with, drawn dashed: one number, or one a line.
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
    lines = np.atleast_2d(np.asarray(values, dtype=np.float64))
    bands = [None if end is None else np.atleast_2d(np.asarray(end, dtype=np.float64)) for end in (low, high)]
    _check(lines, layers, bands, labels, tokens)
    bases = _one_a_line(baseline, len(lines))
    axes = axes_of(ax, min(max(5.5, 2 + 0.16 * len(layers)), 40.0), 4.0 + (0.8 if tokens else 0))
    scaled = all(isinstance(layer, Real) for layer in layers)
    places = np.array(layers, dtype=np.float64) if scaled else np.arange(len(layers), dtype=np.float64)
    names = labels or [None] * len(lines)
    for number, (line, name, base) in enumerate(zip(lines, names, bases, strict=True)):
        colour, style = f"C{number % 10}", "-" if connected else "none"
        axes.plot(places, line, marker="o", markersize=3.5, linewidth=1.4, label=name, color=colour, linestyle=style)
        _band(axes, places, [None if end is None else end[number] for end in bands], connected, colour)
        if base is not None:
            own = colour if len(set(bases)) > 1 else "0.4"
            axes.axhline(base, color=own, linestyle="--", linewidth=1, zorder=1)
    _dress(axes, axis_label, value_label, title)
    axes.margins(x=0.02 if connected else 0.15)
    if not scaled or tokens is not None:
        label_ticks(axes, "x", layers, tokens, list(places))
    elif all(float(place).is_integer() for place in places):
        axes.locator_params(axis="x", integer=True)
    extra = ["unpatched"] * (baseline is not None) + [band_label] * (low is not None)
    if labels or extra:
        _legend(axes, extra)
    return axes


def _check(lines, layers, bands, labels, tokens) -> None:
    if lines.ndim != 2 or lines.shape[1] != len(layers) or lines.size == 0:
        raise ShapeError(
            f"`values` must have one number a layer, shape ({len(layers)},) or (line, {len(layers)}). "
            f"Got {lines.shape}. Give as many layers."
        )
    if [band.shape for band in bands if band is not None] not in ([], [lines.shape] * 2):
        raise ShapeError(
            f"`low` and `high` must both have the shape of `values`, {lines.shape}. "
            f"Got {[None if band is None else band.shape for band in bands]}. Give both or neither."
        )
    for name, given, wanted in (("labels", labels, len(lines)), ("tokens", tokens, len(layers))):
        if given is not None and len(given) != wanted:
            raise ShapeError(f"`{name}` must be {wanted} in number. Got {len(given)}. Give all or none.")


def _one_a_line(baseline, n: int) -> list[float | None]:
    if baseline is None:
        return [None] * n
    bases = np.asarray(baseline, dtype=np.float64)
    if bases.shape not in ((), (n,)):
        raise ShapeError(f"`baseline` must be one number, or one a line, ({n},). Got {bases.shape}.")
    return np.broadcast_to(bases, n).tolist()


def _band(axes, places, ends, connected: bool, colour: str) -> None:
    low, high = ends
    if low is not None and connected:
        axes.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)
    elif low is not None:
        axes.vlines(places, low, high, color=colour, linewidth=1.2)


def _dress(axes, axis_label: str, value_label: str, title: str) -> None:
    axes.set_xlabel(axis_label, parse_math=False)
    write_value_label(axes, value_label, axes.bbox.height / axes.figure.dpi)
    axes.set_title(title, fontsize="medium", parse_math=False)
    axes.grid(alpha=0.25)


def _legend(axes, extra: list[str]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles, names = axes.get_legend_handles_labels()
    for name in extra:
        dashes = Line2D([], [], color="0.4", linestyle="--", linewidth=1)
        handles.append(dashes if name == "unpatched" else Patch(color="0.5", alpha=0.25, linewidth=0))
    for text in axes.legend(handles, names + extra, fontsize="small", framealpha=0.85).get_texts():
        text.set_parse_math(False)
