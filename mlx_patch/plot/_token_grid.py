"""Grids of tokens: a text in each cell, and a shade from 0 to 1."""

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from mlx_patch import arguments
from mlx_patch.errors import ShapeError
from mlx_patch.plot._figure import axes_of
from mlx_patch.plot._text import SIZE, in_fonts, label_ticks, labels_of, texts_of, visible, write_value_label

if TYPE_CHECKING:
    import matplotlib.axes

_DARK = 0.55
"""From this shade on, text is white."""

_LONGEST = 10
"""Characters of a token that a cell has room for."""


def token_grid(
    texts: Sequence[Sequence[str]],
    shades: np.ndarray,
    rows: Sequence[object],
    columns: Sequence[object],
    *,
    row_label: str = "layer",
    column_label: str = "position",
    value_label: str = "",
    tokens: Sequence[str] | None = None,
    title: str = "",
    ax: object = None,
) -> "matplotlib.axes.Axes":
    """A text in each cell, on blue that is darker the nearer its shade is to 1; the first row is at the bottom.

    Args:
        texts: One a cell, in rows.
        shades: From 0 to 1. Shape `(row, column)`.
        rows: Labels of the rows.
        columns: Labels of the columns.
        row_label: What the rows are.
        column_label: What the columns are.
        value_label: What the shades are.
        tokens: The token string of each column, written beneath its label.
        title: Above the plot.
        ax: Where to draw; by default on a new figure in which every cell has room for its text.
    Raises:
        MissingExtraError: matplotlib is not installed.
        ShapeError: Labels, texts and shades differ in number.
    """
    rows, columns, tokens = labels_of("rows", rows), labels_of("columns", columns), texts_of("tokens", tokens)
    texts = [texts_of("texts", row) or () for row in arguments.entries("texts", texts, "a list of texts for each row")]
    shades = arguments.numpy_array("shades", shades)
    for name, label in (("row_label", row_label), ("column_label", column_label), ("title", title)):
        arguments.string(name, label)
    shape = (len(rows), len(columns))
    if shades.shape != shape or [len(row) for row in texts] != [shape[1]] * shape[0] or 0 in shape:
        raise ShapeError(
            f"`shades` and `texts` must have an entry for each row and column, {shape}. Got {shades.shape} and "
            f"{len(texts)} rows of texts. Give one for each."
        )
    axes = axes_of(ax, min(1.9 + 0.66 * shape[1], 40.0), min(1.7 + 0.2 * shape[0], 40.0))
    image = axes.imshow(shades, cmap="Blues", vmin=0, vmax=1, origin="lower", aspect="auto", interpolation="nearest")
    drawable = in_fonts()
    for row, column in product(range(len(rows)), range(len(columns))):
        colour = "white" if shades[row, column] > _DARK else "black"
        text = visible(texts[row][column], _LONGEST, drawable)
        axes.text(column, row, text, ha="center", va="center", fontsize=SIZE - 1, color=colour, parse_math=False)
    label_ticks(axes, "y", rows)
    label_ticks(axes, "x", columns, tokens)
    axes.set_xlabel(column_label, parse_math=False)
    axes.set_ylabel(row_label, parse_math=False)
    axes.set_title(title, fontsize="medium", parse_math=False)
    bar = axes.figure.colorbar(image, ax=axes, pad=0.01, fraction=0.03, aspect=40)
    write_value_label(bar.ax, value_label, float(axes.bbox.height) / axes.figure.dpi)
    bar.ax.tick_params(labelsize=SIZE)
    return axes
