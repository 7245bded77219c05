"""What a notebook shows of an alignment: two rows of tokens, one column a pair."""

from collections.abc import Sequence
from html import escape

from mlx_patch.plot import html_fragment, visible

_STYLE = """
.mlx-patch .alignment { border-collapse: separate; border-spacing: 2px; }
.mlx-patch .alignment th { font-weight: normal; text-align: left; color: var(--soft); padding-right: 6px; }
.mlx-patch .alignment td { padding: 1px 5px; white-space: pre; text-align: center; border: 1px solid var(--line); }
.mlx-patch .alignment td.changed { border-color: var(--more); }
.mlx-patch .alignment td.alone { border-style: dashed; color: var(--soft); }
.mlx-patch .alignment td.gap { border-color: transparent; }
.mlx-patch .aligned { overflow: auto; max-width: 100%; }
"""
_GAP = '<td class="gap"></td>'

Column = tuple[int | None, int | None]
"""A position of the source and of the target; None where one has none."""


def alignment_page(columns: Sequence[Column], source: Sequence[str], target: Sequence[str], heading: str) -> str:
    """A fragment of HTML: the source's tokens above the target's. What differs in a pair is framed in red.

    Args:
        columns: Every position of both, pairs together.
        source: The token at each position of the source.
        target: The token at each position of the target.
        heading: Above the rows.
    """
    source_cells, target_cells = [], []
    for source_position, target_position in columns:
        kind = _kind_of(source_position, target_position, source, target)
        source_cells.append(_cell(source_position, source, kind, target_position))
        target_cells.append(_cell(target_position, target, kind, source_position))
    rows = "".join(
        f'<tr><th scope="row">{name}</th>{"".join(cells)}</tr>'
        for name, cells in (("source", source_cells), ("target", target_cells))
    )
    table = f'<div class="aligned"><table class="alignment">{rows}</table></div>'
    legend = "<p>One column a pair. Red: the tokens of a pair differ. Dashed: nothing is patched.</p>"
    return html_fragment(f"<p>{escape(heading)}</p>{table}{legend}", _STYLE)


def _kind_of(source_position: int | None, target_position: int | None, source: Sequence[str], target: Sequence[str]):
    if source_position is None or target_position is None:
        return "alone"
    if source[source_position] != target[target_position]:
        return "changed"
    return "same"


def _cell(position: int | None, tokens: Sequence[str], kind: str, partner: int | None) -> str:
    if position is None:
        return _GAP
    tip = f"position {position}"
    if partner is not None:
        tip += f", paired with {partner}"
    return f'<td class="{kind}" title="{tip}">{escape(visible(tokens[position]))}</td>'
