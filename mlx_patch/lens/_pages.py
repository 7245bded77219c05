"""The HTML pages of lenses and of attention, which are tables without a script; and of parts of a logit."""

from collections.abc import Sequence
from html import escape

import numpy as np

from mlx_patch.plot import PageAxis, cells_data, cells_page, html_page, html_table, visible

_LARGEST_DRAWN = 20_000
"""Cells that a page draws. Of more, it has the strongest alone."""

_LENS_STYLE = """
table.lens { border-collapse: collapse; font: 12px monospace; }
table.lens td, table.lens th { padding: 2px 5px; border: 1px solid var(--line); white-space: pre; }
table.lens th { font-weight: normal; color: var(--soft); text-align: right; }
"""

_ATTENTION_STYLE = """
div.head { display: inline-block; margin: 6px; vertical-align: top; }
div.head td { width: 10px; height: 10px; padding: 0; border: 1px solid var(--line); }
"""


def lens_page(
    texts: Sequence[Sequence[Sequence[str]]],
    probs: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    heading: str,
) -> str:
    """A table with the last layer at the top. Each cell shows its first token, and all when it is pointed at.

    Args:
        texts: The tokens of each cell, the most likely first.
        probs: Their probabilities. Shape `(row, column, k)`.
        rows: The layers.
        columns: The tokens of the prompt.
        heading: Above the table.
    """
    body = [_row(*row) for row in zip(texts, probs, rows, strict=True)]
    body.reverse()
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    table = f'<table class="lens">{"".join(body)}<tr><th></th>{head}</tr></table>'
    return html_page(heading, f"<h1>{escape(heading)}</h1>{table}", style=_LENS_STYLE)


def _row(cells: Sequence[Sequence[str]], probs: np.ndarray, label: str) -> str:
    cells_html = "".join(_cell(cell, shades) for cell, shades in zip(cells, probs, strict=True))
    return f"<tr><th>{escape(label)}</th>{cells_html}</tr>"


def _cell(cell: Sequence[str], shades: np.ndarray) -> str:
    pointed_at = "\n".join(f"{visible(text)}  {shade:.3f}" for text, shade in zip(cell, shades, strict=True))
    lightness = 100 - 60 * float(shades[0])
    colour = "#fff" if lightness < 62 else "#000"
    style = f"background: hsl(212, 70%, {lightness:.0f}%); color: {colour}"
    return f'<td style="{style}" title="{escape(pointed_at)}">{escape(visible(cell[0]))}</td>'


def attention_page(patterns: np.ndarray, queries: Sequence[int], tokens: Sequence[str] | None, heading: str) -> str:
    """A grid for each head: a row for each query, from the top, and a column for each key.

    Args:
        patterns: Shape `(head, query, key)`.
        queries: The positions of the queries.
        tokens: The token string of each position, shown where one points; None shows positions.
        heading: Above the grids.
    """
    names = [str(key) for key in range(patterns.shape[-1])]
    if tokens is not None and len(tokens) == len(names):
        names = [f"{visible(token)} ({name})" for token, name in zip(tokens, names, strict=True)]
    grids = "".join(_grid(number, pattern, queries, names) for number, pattern in enumerate(patterns))
    return html_page(heading, f"<h1>{escape(heading)}</h1>{grids}", style=_ATTENTION_STYLE)


def _grid(head: int, pattern: np.ndarray, queries: Sequence[int], names: Sequence[str]) -> str:
    rows = [_queries_row(weights, names[query], names) for weights, query in zip(pattern, queries, strict=True)]
    return f'<div class="head">head {head}<table>{"".join(rows)}</table></div>'


def _queries_row(weights: np.ndarray, query: str, names: Sequence[str]) -> str:
    cells = []
    for weight, key in zip(weights.tolist(), names, strict=True):
        title = escape(f"{query} reads {key}: {weight:.3f}")
        cells.append(f'<td style="background: hsl(212, 70%, {100 - 60 * weight:.0f}%)" title="{title}"></td>')
    return f"<tr>{''.join(cells)}</tr>"


def direct_page(
    axes: Sequence[PageAxis], values: np.ndarray, answer: str, text: str, strongest: list[list[str]], others: dict
) -> str:
    """What each part of the stream adds to a logit: a heatmap or points, the strongest parts, and what else there is.

    Args:
        axes: Of the parts.
        values: What each adds. Shape `(*axes, example)`.
        answer: What the logit is of, in words.
        text: The strongest parts as text.
        strongest: The name and the number of each.
        others: The means of what is no cell, by name.
    """
    data = None
    if values[..., 0].size <= _LARGEST_DRAWN:
        data = cells_data(axes, values[..., None, :], [answer])
    tables = [
        html_table(["strongest parts", "adds"], strongest),
        html_table(["beside them", "adds"], [[name, f"{mean:.4g}"] for name, mean in others.items()]),
    ]
    by = " and ".join(axis.name for axis in axes)
    return cells_page(f"DirectLogits by {by}", text, data, tables=tables)
