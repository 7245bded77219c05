"""The axes to draw on: the caller's, or those of a new figure."""

import importlib
from typing import TYPE_CHECKING

from mlx_patch.errors import KindError, MissingExtraError

if TYPE_CHECKING:
    import matplotlib.axes


def new_axes(width: float, height: float, rows: int = 1, columns: int = 1) -> "list[matplotlib.axes.Axes]":
    """The axes of a new figure, which pyplot knows, so that `plt.show()` and notebooks show it.

    Args:
        width: Of the figure, in inches.
        height: The same.
        rows: The number of rows of panels.
        columns: The number of columns.
    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    check_installed()
    import matplotlib.pyplot as plt

    _, panels = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", squeeze=False)
    return list(panels.ravel())


def axes_of(ax: object, width: float, height: float) -> "matplotlib.axes.Axes":
    """The given axes, or those of a new figure of that size.

    Raises:
        MissingExtraError: matplotlib is not installed.
        KindError: `ax` is something else, such as a figure.
    """
    check_installed()
    from matplotlib.axes import Axes

    if ax is None:
        return new_axes(width, height)[0]
    if not isinstance(ax, Axes):
        raise KindError(
            f"`ax` must be a matplotlib Axes. Got {type(ax).__name__}. "
            "Make one with `figure.subplots()`, or leave it out."
        )
    return ax


def check_installed() -> None:
    """Refuse to draw without matplotlib.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        importlib.import_module("matplotlib")
    except ImportError as error:
        raise MissingExtraError(
            f'`plot` needs matplotlib. Got: {error}. Install the extra: pip install "mlx-patch[plot]".'
        ) from error
