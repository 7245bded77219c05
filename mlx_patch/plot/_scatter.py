"""Points of two numbers each, with the diagonal on which the two are equal."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

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
    axes = axes_of(ax, 5.2, 4.8)
    axes.axhline(0, color="0.85", linewidth=0.8, zorder=0)
    axes.axvline(0, color="0.85", linewidth=0.8, zorder=0)
    for number, (name, (first, second)) in enumerate(points.items()):
        axes.scatter(first, second, s=18, alpha=0.7, color=f"C{number}", label=name, edgecolors="none")
    if diagonal:
        numbers = np.concatenate([array for pair in points.values() for array in pair])
        ends = [float(np.nanmin(numbers)), float(np.nanmax(numbers))]
        axes.plot(ends, ends, color="0.4", linestyle="dashed", linewidth=1, label="equal")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title, fontsize="medium")
    axes.legend(fontsize="small")
    return axes
