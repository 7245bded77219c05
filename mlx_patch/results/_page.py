"""The HTML page of a result: a heatmap or a curve with pickers, the strongest cells as text, and how it was made."""

import json
import os
from html import escape
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from mlx_patch.files import written_whole
from mlx_patch.plot import html_frame, html_page, html_table, visible
from mlx_patch.results._axes import is_ordered, label_of
from mlx_patch.results._coordinates import label_text, where_text
from mlx_patch.results._figures import rows_and_columns
from mlx_patch.results._labelled import Labelled
from mlx_patch.results._peaks import largest_effects
from mlx_patch.results._selection import one_metric
from mlx_patch.results._text import description

_SHOWN = 10
"""Cells that the page names as text."""

_LARGEST_OUTPUT = 100_000
"""Numbers of a page that a notebook keeps in an output."""

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


def result_page(result: Labelled, path: str | os.PathLike[str] | None = None) -> str:
    """What `to_html` of a result returns."""
    name = f"{type(result).__name__} over {', '.join(result.over) or 'one cell'}"
    body = [
        f"<h1>{escape(name)}</h1>",
        f"<pre>{escape(description(result))}</pre>",
        '<div id="figure"></div>',
        *(_strongest(result, metric) for metric in result.metrics or ("",)),
        f"<details><summary>How it was made</summary><pre>{escape(_provenance(result))}</pre></details>",
    ]
    script = Path(__file__).with_name("_page.js").read_text(encoding="utf-8")
    page = html_page(name, "\n".join(body), style=_STYLE, data=page_data(result), script=script)
    if path is not None:
        with written_whole(path) as temporary:
            temporary.write_text(page, encoding="utf-8")
    return page


def result_frame(result: Labelled) -> str:
    """What a notebook shows of a result: its page in a frame, or its text where the page is large."""
    if result.values.size > _LARGEST_OUTPUT:
        return f"<pre>{escape(description(result))}\nSee all of it with to_html(path).</pre>"
    n_rows = 12
    if len(result.over) > 1:
        n_rows = len(result.coords[_rows_and_columns(result)[0]])
    return html_frame(result_page(result), min(360 + 18 * n_rows, 900))


def pair_page(denoising: Labelled, noising: Labelled, path: str | os.PathLike[str] | None = None) -> str:
    """What `to_html` of a pair of results returns: a page with the page of each."""
    frames = pair_frames(denoising, noising)
    page = html_page("PairResult: denoising and noising", frames)
    if path is not None:
        with written_whole(path) as temporary:
            temporary.write_text(page, encoding="utf-8")
    return page


def pair_frames(denoising: Labelled, noising: Labelled) -> str:
    """What a notebook shows of a pair of results: one below the other."""
    titles = {"denoising: clean put into corrupted": denoising, "noising: corrupted put into clean": noising}
    return "\n".join(f"<h2>{escape(title)}</h2>{result_frame(result)}" for title, result in titles.items())


def _strongest(result: Labelled, metric: str) -> str:
    """The cells furthest from the baseline, as a table."""
    single = result
    if metric:
        single = one_metric(result, metric)
    if not np.isfinite(single.mean()).any():
        return "<p>No cell has a value.</p>"
    rows = []
    for peak in largest_effects(single, _SHOWN):
        numbers = (peak.value, peak.baseline, peak.effect)
        rows.append([where_text(peak.where) or "the only cell", *(f"{number:.4g}" for number in numbers)])
    return html_table(["strongest cells", "value", "baseline", "change"], rows, metric)


def _provenance(result: Labelled) -> str:
    return json.dumps(dict(result.provenance), indent=1, ensure_ascii=False, sort_keys=True)


def _rows_and_columns(result: Labelled) -> tuple[str, str]:
    """The axes that a heatmap begins with: layers and positions, if they are there, else the first two."""
    if len(result.over) == 2:
        return rows_and_columns(result)
    rows, columns = result.over[:2]
    if {"layer", "pos"} <= set(result.over):
        rows, columns = "layer", "pos"
    return rows, columns


def page_data(result: Labelled) -> dict[str, Any]:
    """What the script draws, as JSON values. NaN is None."""
    n_metrics = max(1, len(result.coords.get("metric", ())))
    n_examples = result.values.shape[-1]
    n_cells = result.values.size // (n_metrics * n_examples)
    data: dict[str, Any] = {
        "axes": [_axis(result, axis) for axis in result.over],
        "metrics": list(result.metrics) or ["value"],
        "examples": n_examples,
        "values": _plain(result.values.reshape(n_cells, n_metrics, n_examples)),
        "baseline": _plain(result.baseline.reshape(n_metrics, n_examples)),
        "counted": (~result.left_out).reshape(n_metrics, n_examples).tolist(),
        "normalised": result.is_normalised,
    }
    exact = getattr(result, "exact", None)
    if exact is not None:
        data["exact"] = exact.ravel().tolist()
    if len(result.over) > 1:
        data["shown"] = list(_rows_and_columns(result))
    elif result.over and all(map(_can_resample, data["counted"])):
        low, high = result.interval()
        data["interval"] = [_plain(end.reshape(n_cells, n_metrics)) for end in (low, high)]
    return data


def _can_resample(counted: list[bool]) -> bool:
    """Whether two examples or more count, as an interval needs."""
    return sum(counted) > 1


def _axis(result: Labelled, axis: str) -> dict[str, Any]:
    labels = list(map(label_text, result.coords[axis]))
    if axis == "pos" and "token" in result.coords:
        labels = [f"{label} {visible(token)}" for label, token in zip(labels, result.coords["token"], strict=True)]
    return {"name": axis, "label": label_of(axis), "labels": labels, "ordered": is_ordered(axis)}


def _plain(numbers: Any) -> Any:
    """Nested lists of JSON's numbers, with only the digits that float32 has; None for what is not finite."""
    if isinstance(numbers, np.ndarray):
        return [_plain(number) for number in numbers]
    value = float(str(numbers))
    if isfinite(value):
        return value
    return None
