"""The HTML page of a result: a heatmap or a curve with pickers, the strongest cells as text, and how it was made."""

import json
import os
from html import escape
from typing import Any

import numpy as np

from mlx_patch.files import text_written
from mlx_patch.plot import PageAxis, cells_data, cells_page, frame_height, html_frame, html_page, html_table, visible
from mlx_patch.results._axes import is_ordered, label_of
from mlx_patch.results._captions import short_metrics, what_was_patched
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


def result_page(result: Labelled, path: str | os.PathLike[str] | None = None) -> str:
    """What `to_html` of a result returns."""
    name = f"{type(result).__name__} over {', '.join(result.over) or 'one cell'}"
    if patched := what_was_patched(result.provenance, result.over):
        name = f"{name}: {patched}"
    tables = [_strongest(result, metric) for metric in result.metrics or ("",)]
    page = cells_page(name, description(result), page_data(result), tables=tables, provenance=_provenance(result))
    return text_written(page, path)


def result_frame(result: Labelled) -> str:
    """What a notebook shows of a result: its page in a frame, or its text where the page is large."""
    if result.values.size > _LARGEST_OUTPUT:
        return f"<pre>{escape(description(result))}\nSee all of it with to_html(path).</pre>"
    n_rows = 12
    if len(result.over) > 1:
        n_rows = len(result.coords[_rows_and_columns(result)[0]])
    return html_frame(result_page(result), frame_height(n_rows))


def pair_page(denoising: Labelled, noising: Labelled, path: str | os.PathLike[str] | None = None) -> str:
    """What `to_html` of a pair of results returns: a page with the page of each."""
    frames = pair_frames(denoising, noising)
    return text_written(html_page("PairResult: denoising and noising", frames), path)


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
    sizes = [len(result.coords[axis]) for axis in result.over]
    counted = (~result.left_out).reshape(n_metrics, n_examples).tolist()
    more: dict[str, Any] = {"counted": counted, "normalised": result.is_normalised}
    exact = getattr(result, "exact", None)
    if exact is not None:
        more["exact"] = exact.ravel().tolist()
    if len(result.over) > 1:
        more["shown"] = list(_rows_and_columns(result))
    elif result.over and all(map(_can_resample, counted)):
        more["interval"] = tuple(end.reshape(-1, n_metrics) for end in result.interval())
    return cells_data(
        [_axis(result, axis) for axis in result.over],
        result.values.reshape(*sizes, n_metrics, n_examples),
        short_metrics(result.metrics) or ["value"],
        baseline=result.baseline.reshape(n_metrics, n_examples),
        **more,
    )


def _can_resample(counted: list[bool]) -> bool:
    """Whether two examples or more count, as an interval needs."""
    return sum(counted) > 1


def _axis(result: Labelled, axis: str) -> PageAxis:
    labels = list(map(label_text, result.coords[axis]))
    if axis == "pos" and "token" in result.coords:
        labels = [f"{label} {visible(token)}" for label, token in zip(labels, result.coords["token"], strict=True)]
    return PageAxis(axis, labels, label_of(axis), is_ordered(axis))
