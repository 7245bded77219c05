"""Figures and tables of the 2 x 2 of two models' halves."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from mlx_patch.plot import PageAxis, cells_data, cells_page, layer_curve
from mlx_patch.results import bootstrap_interval, import_optional

if TYPE_CHECKING:
    import matplotlib.axes
    import pandas

HALVES = ("base", "other")
"""Whose a half is, in the order of the axes."""


def interval_of(values: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The 95% interval of the mean over the last axis; None for fewer than two examples."""
    n_examples = values.shape[-1]
    if n_examples < 2:
        return None
    return bootstrap_interval(values, np.zeros(n_examples, bool), 0.95, 2000, 0)


def draw_contributions(
    layers: Sequence[int], effects: Mapping[str, np.ndarray], label: str, title: str, ax: Any
) -> "matplotlib.axes.Axes":
    """A curve over layers for each effect, with the interval of its mean.

    Args:
        layers: Where the halves meet.
        effects: By name, shape `(layer, example)` each.
        label: What the numbers are.
        title: Above the plot.
        ax: Where to draw; None is a new figure.
    """
    values = np.stack(list(effects.values()))
    low, high = interval_of(values) or (None, None)
    return layer_curve(
        values.mean(axis=-1),
        layers,
        low=low,
        high=high,
        labels=list(effects),
        value_label=label,
        band_label="95% interval of the mean",
        title=title,
        ax=ax,
    )


def contributions_page(layers: Sequence[int], numbers: Mapping[str, np.ndarray], title: str, text: str) -> str:
    """A page with a curve over layers for each of some numbers.

    Args:
        layers: Where the halves meet.
        numbers: By name, shape `(layer, example)` each.
        title: Of the page.
        text: The means as a table.
    """
    values = np.stack(list(numbers.values()), axis=1)
    axis = PageAxis("layer", list(map(str, layers)), label="layer at which the halves meet")
    return cells_page(title, text, cells_data([axis], values, list(numbers), interval=interval_of(values)))


def cells_frame(layers: Sequence[int], cells: np.ndarray) -> "pandas.DataFrame":
    """One row per layer, halves and example: `layer`, `early`, `late`, `example`, `value`.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    pandas = import_optional("pandas", "to_pandas")
    rows = list(product(layers, HALVES, HALVES, range(cells.shape[-1])))
    table = pandas.DataFrame(rows, columns=["layer", "early", "late", "example"])
    return table.assign(value=cells.ravel())
