"""The HTML page of a layer's attention: a grid of shaded cells for each head."""

from collections.abc import Sequence
from html import escape

import numpy as np

from mlx_patch.plot import html_page, visible

_STYLE = """
div.head { display: inline-block; margin: 6px; vertical-align: top; }
div.head td { width: 10px; height: 10px; padding: 0; border: 1px solid var(--line); }
"""


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
    return html_page(heading, f"<h1>{escape(heading)}</h1>{grids}", style=_STYLE)


def _grid(head: int, pattern: np.ndarray, queries: Sequence[int], names: Sequence[str]) -> str:
    rows = [_row(weights, names[query], names) for weights, query in zip(pattern, queries, strict=True)]
    return f'<div class="head">head {head}<table>{"".join(rows)}</table></div>'


def _row(weights: np.ndarray, query: str, names: Sequence[str]) -> str:
    cells = []
    for weight, key in zip(weights.tolist(), names, strict=True):
        title = escape(f"{query} reads {key}: {weight:.3f}")
        cells.append(f'<td style="background: hsl(212, 70%, {100 - 60 * weight:.0f}%)" title="{title}"></td>')
    return f"<tr>{''.join(cells)}</tr>"
