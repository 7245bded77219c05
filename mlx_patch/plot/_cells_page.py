"""Pages of numbers: a heatmap of two axes or more, a curve of one, or points of two numbers each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from mlx_patch.plot._page import html_page

_STYLE = """
.mlx-patch .pickers { display: flex; flex-wrap: wrap; gap: 6px 16px; margin: 8px 0; }
.mlx-patch select { font: inherit; }
.mlx-patch .scroll { overflow: auto; max-width: 100%; }
.mlx-patch .grid td { min-width: 14px; height: 16px; padding: 0; border: 1px solid var(--paper); }
.mlx-patch .grid th { font-weight: normal; font-size: 11px; color: var(--soft); padding: 0 4px; text-align: right; }
.mlx-patch .grid thead th { writing-mode: vertical-rl; text-align: left; padding: 4px 0; white-space: pre; }
.mlx-patch .grid thead th:first-child { writing-mode: horizontal-tb; vertical-align: bottom; }
.mlx-patch .grid td.missing { background: repeating-linear-gradient(45deg,
  var(--nothing) 0 2px, var(--paper) 2px 5px); }
.mlx-patch .grid td.exact { border-color: var(--ink); }
.mlx-patch .grid td:focus, .mlx-patch circle:focus { outline: 2px solid var(--ink); outline-offset: -1px; }
.mlx-patch output { display: block; min-height: 1.5em; margin: 6px 0; font-variant-numeric: tabular-nums; }
.mlx-patch .scale { display: inline-block; width: 160px; height: 10px; vertical-align: middle; margin: 0 6px;
  background: linear-gradient(to right in oklab, var(--less), var(--middle), var(--more)); }
.mlx-patch details { margin: 8px 0; }
.mlx-patch pre { white-space: pre-wrap; overflow-wrap: anywhere; }
.mlx-patch svg text { fill: var(--soft); font-size: 11px; }
"""


@dataclass(frozen=True)
class PageAxis:
    """An axis of a page's numbers.

    Attributes:
        name: Its short name, in sentences and pickers.
        labels: Of its places.
        label: What a plot calls it; empty for its name.
        ordered: Whether its places have an order, so that a curve connects them and rows are drawn upwards.
    """

    name: str
    labels: Sequence[str]
    label: str = ""
    ordered: bool = True


def cells_data(
    axes: Sequence[PageAxis],
    values: np.ndarray,
    metrics: Sequence[str],
    *,
    baseline: np.ndarray | None = None,
    interval: tuple[np.ndarray, np.ndarray] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """What the script of a page draws, as JSON values; None is a number that is not finite.

    Args:
        axes: Of the cells. The first two are the rows and columns of a heatmap, unless `shown` names others.
        values: Shape `(*axes, metric, example)`.
        metrics: The names of the metrics.
        baseline: What a cell's change is counted from, shape `(metric, example)`; None draws values as they are.
        interval: The ends of an interval about the mean of each cell of a curve, shape `(cell, metric)` each.
        more: Further values: `counted` examples by metric, `normalised`, `exact` cells, and `shown` axes.
    """
    *_, n_metrics, n_examples = values.shape
    data: dict[str, Any] = {
        "axes": [_axis(axis) for axis in axes],
        "metrics": list(metrics),
        "examples": n_examples,
        "values": plain_numbers(values.reshape(-1, n_metrics, n_examples)),
        "baseline": None,
        "counted": [[True] * n_examples] * n_metrics,
        "normalised": False,
    }
    if baseline is not None:
        data["baseline"] = plain_numbers(baseline)
    if interval is not None:
        data["interval"] = [plain_numbers(end) for end in interval]
    if len(axes) > 1:
        data["shown"] = [axes[0].name, axes[1].name]
    return data | more


def points_data(
    groups: Mapping[str, tuple[np.ndarray, np.ndarray]], labels: Mapping[str, Sequence[str]], x_label: str, y_label: str
) -> dict[str, Any]:
    """What the script draws where each point has two numbers, about the line on which they are equal.

    Args:
        groups: The two numbers of each point, shape `(point,)` each, by the name of its group.
        labels: What each point is, by the name of its group.
        x_label: What the first numbers are.
        y_label: What the second numbers are.
    """
    points = []
    for name, (first, second) in groups.items():
        numbers = zip(labels[name], plain_numbers(first), plain_numbers(second), strict=True)
        points += [{"group": name, "label": label, "x": x, "y": y} for label, x, y in numbers]
    return {"points": points, "groups": list(groups), "x": x_label, "y": y_label}


def cells_page(
    title: str, text: str, data: Mapping[str, Any] | None, *, tables: Sequence[str] = (), provenance: str = ""
) -> str:
    """A page that draws numbers, with what is said of them as text.

    Args:
        title: Of the page.
        text: Beneath the title, as it is written.
        data: What `cells_data` or `points_data` returns; None draws nothing.
        tables: HTML beneath the figure.
        provenance: How the numbers were made; empty if that is not known.
    """
    body = [f"<h1>{escape(title)}</h1>", f"<pre>{escape(text)}</pre>"]
    script = ""
    if data is not None:
        body.append('<div id="figure"></div>')
        script = Path(__file__).with_name("_cells.js").read_text(encoding="utf-8")
    body += tables
    if provenance:
        body.append(f"<details><summary>How it was made</summary><pre>{escape(provenance)}</pre></details>")
    return html_page(title, "\n".join(body), style=_STYLE, data=data, script=script)


def frame_height(n_rows: int) -> int:
    """The pixels of a page with so many rows of a heatmap; a curve is as high as 12."""
    return min(360 + 18 * n_rows, 900)


def _axis(axis: PageAxis) -> dict[str, Any]:
    return {
        "name": axis.name,
        "label": axis.label or axis.name,
        "labels": list(axis.labels),
        "ordered": axis.ordered,
    }


def plain_numbers(numbers: Any) -> Any:
    """Nested lists of JSON's numbers, with only the digits that float32 has; None for what is not finite."""
    if isinstance(numbers, np.ndarray):
        return [plain_numbers(number) for number in numbers]
    value = float(str(np.float32(numbers)))
    if isfinite(value):
        return value
    return None
