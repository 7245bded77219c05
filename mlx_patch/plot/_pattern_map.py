"""Maps of attention patterns: queries down, keys across, on a scale from 0 to 1."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mlx_patch import arguments
from mlx_patch.errors import ShapeError
from mlx_patch.plot._figure import axes_of
from mlx_patch.plot._text import SIZE, label_ticks, labels_of, texts_of

if TYPE_CHECKING:
    import matplotlib.axes


def pattern_map(
    pattern: np.ndarray,
    queries: Sequence[object],
    keys: Sequence[object],
    *,
    query_tokens: Sequence[str] | None = None,
    key_tokens: Sequence[str] | None = None,
    title: str = "",
    ax: object = None,
) -> "matplotlib.axes.Axes":
    """An attention pattern: a row for each query, from the top, and a column for each key; dark is 1 and white is 0.

    Args:
        pattern: Shape `(query, key)`.
        queries: Labels of the rows.
        keys: Labels of the columns.
        query_tokens: The token string of each query.
        key_tokens: The token string of each key.
        title: Above the plot.
        ax: Where to draw; by default on a new figure in which every token has room.
    Raises:
        MissingExtraError: matplotlib is not installed.
        ShapeError: Labels and pattern differ in number.
    """
    queries, keys = labels_of("queries", queries), labels_of("keys", keys)
    query_tokens, key_tokens = texts_of("query_tokens", query_tokens), texts_of("key_tokens", key_tokens)
    pattern = arguments.numpy_array("pattern", pattern)
    arguments.string("title", title)
    shape = (len(queries), len(keys))
    if pattern.shape != shape or 0 in shape:
        raise ShapeError(
            f"`pattern` must have a row for each query and a column for each key, {shape}. Got {pattern.shape}. "
            "Give labels for each."
        )
    axes = axes_of(ax, min(2.2 + 0.2 * shape[1], 40.0), min(2.0 + 0.18 * shape[0], 40.0))
    image = axes.imshow(pattern, cmap="Blues", vmin=0, vmax=1, origin="upper", aspect="auto", interpolation="nearest")
    label_ticks(axes, "y", queries, query_tokens)
    label_ticks(axes, "x", keys, key_tokens)
    axes.set_ylabel("query", parse_math=False)
    axes.set_xlabel("key", parse_math=False)
    axes.set_title(title, fontsize="medium", parse_math=False)
    bar = axes.figure.colorbar(image, ax=axes, pad=0.02, fraction=0.04)
    bar.ax.tick_params(labelsize=SIZE)
    return axes
