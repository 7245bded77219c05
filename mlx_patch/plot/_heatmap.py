"""Heatmaps with a colour scale centred on no change."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mlx_patch import arguments
from mlx_patch.errors import ShapeError
from mlx_patch.plot._figure import axes_of
from mlx_patch.plot._text import SIZE, label_ticks, labels_of, texts_of, write_value_label

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.image

_COLOURS = "RdBu_r"  # white in the middle; red and blue are told apart by the colour-blind
_NOTHING = "0.78"  # grey, which is not on that scale


def heatmap(
    values: np.ndarray,
    rows: Sequence[object],
    columns: Sequence[object],
    *,
    row_label: str = "layer",
    column_label: str = "position",
    value_label: str = "",
    center: float = 0.0,
    limit: float | None = None,
    tokens: Sequence[str] | None = None,
    upwards: bool = True,
    title: str = "",
    ax: object = None,
) -> "matplotlib.axes.Axes":
    """A heatmap in which white is `center`, red more and blue less, as far one way as the other; NaN is grey.

    Args:
        values: Shape `(row, column)`.
        rows: Labels of the rows.
        columns: Labels of the columns.
        row_label: What the rows are.
        column_label: What the columns are.
        value_label: What the colours are, with its unit.
        center: The value that is white.
        limit: How far from `center` the scale goes; by default as far as the furthest finite value.
        tokens: The token string of each column, written beneath its label.
        upwards: Whether the first row is at the bottom, as layers are in the direction of the stream, or at the top.
        title: Above the plot.
        ax: Where to draw; by default on a new figure large enough for 30 layers and 60 tokens.
    Returns:
        The axes. The image is `axes.images[0]`.
    Raises:
        MissingExtraError: matplotlib is not installed.
        ShapeError: Labels and values differ in number.
        ValueRefusedError: `limit` is not above 0.
    """
    values = arguments.numpy_array("values", values).astype(np.float64)
    rows, columns, tokens = labels_of("rows", rows), labels_of("columns", columns), texts_of("tokens", tokens)
    center, upwards = arguments.number("center", center), arguments.flag("upwards", upwards)
    for name, label in (("row_label", row_label), ("column_label", column_label), ("title", title)):
        arguments.string(name, label)
    if values.shape != (len(rows), len(columns)) or 0 in values.shape:
        raise ShapeError(
            f"`values` must have one row per row label and one column per column label, ({len(rows)}, {len(columns)}). "
            f"Got {values.shape}. Give labels for each."
        )
    if tokens is not None and len(tokens) != len(columns):
        raise ShapeError(
            f"`tokens` must hold one token per column, {len(columns)}. Got {len(tokens)}. Give all or none."
        )
    axes = axes_of(ax, *size_of_heatmap(len(rows), len(columns), tokens is not None))
    if limit is None:
        limit = limit_of(values, center)
    else:
        limit = arguments.number("limit", limit, above=0, remedy="Leave it out to see all.")
    image = _draw_image(axes, values, center, limit, upwards)
    label_ticks(axes, "y", rows)
    label_ticks(axes, "x", columns, tokens)
    axes.set_xlabel(column_label, parse_math=False)
    axes.set_ylabel(row_label, parse_math=False)
    axes.set_title(title, fontsize="medium", parse_math=False)
    _draw_colorbar(axes, image, value_label)
    if np.isnan(values).any():
        _explain_grey(axes)
    return axes


def size_of_heatmap(rows: int, columns: int, tokens: bool = False) -> tuple[float, float]:
    """The width and height, in inches, at which every row and column has room for its label; 40 at most.

    Example:
        >>> [round(size, 1) for size in size_of_heatmap(30, 60, tokens=True)]
        [12.4, 7.0]
    """
    width = 1.6 + 0.18 * columns
    height = 0.8 + 0.17 * rows
    if tokens:
        height += 1.1
    else:
        height += 0.3
    return min(max(width, 6.0), 40.0), min(max(height, 3.0), 40.0)


def limit_of(values: np.ndarray, center: float) -> float:
    """The distance of the furthest finite value from the centre; 1 if it would be 0, which is no scale."""
    distances = np.abs(np.asarray(values, dtype=np.float64) - center)
    furthest = float(np.max(distances, initial=0.0, where=np.isfinite(distances)))
    return furthest or 1.0


def _draw_image(axes, values, center: float, limit: float, upwards: bool) -> "matplotlib.image.AxesImage":
    from matplotlib import colormaps

    origin = "upper"
    if upwards:
        origin = "lower"
    return axes.imshow(
        values,
        cmap=colormaps[_COLOURS].with_extremes(bad=_NOTHING),
        vmin=center - limit,
        vmax=center + limit,
        origin=origin,
        aspect="auto",
        interpolation="nearest",
    )


def _draw_colorbar(axes, image, value_label: str) -> None:
    """A colour bar 0.16 inches wide, whatever the size of the axes, to which matplotlib's arguments are relative."""
    width, height = axes.bbox.size / axes.figure.dpi
    share = min(0.2, 0.25 / width)
    bar = axes.figure.colorbar(image, ax=axes, pad=0.1 / width, fraction=share, aspect=height / 0.16)
    write_value_label(bar.ax, value_label, height)
    bar.ax.tick_params(labelsize=SIZE)


def _explain_grey(axes) -> None:
    from matplotlib.patches import Patch

    grey = [Patch(color=_NOTHING, label="no value")]
    axes.legend(handles=grey, loc="lower right", bbox_to_anchor=(1, 1), frameon=False, fontsize=SIZE, borderpad=0)
