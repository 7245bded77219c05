"""Points of two numbers each, with the diagonal on which the two are equal."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mlx_patch import arguments
from mlx_patch.errors import ShapeError
from mlx_patch.plot._figure import axes_of

if TYPE_CHECKING:
    import matplotlib.axes


def scatter(
    points: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    x_label: str = "",
    y_label: str = "",
    diagonal: bool = False,
    title: str = "",
    ax: object = None,
) -> "matplotlib.axes.Axes":
    """Points in groups, by the name of the group.

    Args:
        points: The two numbers of each point, shape `(point,)` each.
        x_label: What the first numbers are, with their unit.
        y_label: What the second numbers are.
        diagonal: Whether to draw the line on which the two are equal, on equal scales.
        title: Above the plot.
        ax: Where to draw; by default on a new figure.
    Returns:
        The axes.
    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    drawn = {
        arguments.string("points", name): _checked_pair(pair)
        for name, pair in arguments.mapping("points", points, "a mapping of names to (first, second)").items()
    }
    diagonal = arguments.flag("diagonal", diagonal)
    axes = axes_of(ax, 5.2, 4.8)
    axes.axhline(0, color="0.85", linewidth=0.8, zorder=0)
    axes.axvline(0, color="0.85", linewidth=0.8, zorder=0)
    for number, (name, (first, second)) in enumerate(drawn.items()):
        axes.scatter(first, second, s=18, alpha=0.7, color=f"C{number}", label=name, edgecolors="none")
    if diagonal and drawn:
        numbers = np.concatenate([array for pair in drawn.values() for array in pair])
        ends = [float(np.nanmin(numbers)), float(np.nanmax(numbers))]
        axes.plot(ends, ends, color="0.4", linestyle="dashed", linewidth=1, label="equal")
    axes.set_xlabel(arguments.string("x_label", x_label))
    axes.set_ylabel(arguments.string("y_label", y_label))
    axes.set_title(arguments.string("title", title), fontsize="medium")
    if drawn:
        axes.legend(fontsize="small")
    return axes


def _checked_pair(pair: Any) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays of as many numbers."""
    arrays = [arguments.numpy_array("points", array) for array in arguments.entries("points", pair, "pairs of arrays")]
    if len(arrays) != 2 or arrays[0].ndim != 1 or arrays[0].shape != arrays[1].shape:
        shapes = [array.shape for array in arrays]
        raise ShapeError(f"`points` must be pairs of arrays of one length, (first, second). Got the shapes {shapes}.")
    return arrays[0].astype(np.float64), arrays[1].astype(np.float64)
