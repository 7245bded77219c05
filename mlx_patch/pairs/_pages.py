"""What a notebook shows of pairs, and of their check."""

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from html import escape
from re import findall
from typing import Any

import mlx.core as mx

from mlx_patch.plot import html_fragment

_SHOWN = 20
"""How many pairs are shown."""

_STYLE = """
.mlx-patch .numbers.pairs td { text-align: left; white-space: pre-wrap; }
.mlx-patch .numbers.pairs td:nth-child(n + 4) { white-space: nowrap; }
.mlx-patch .numbers.pairs tr.fails td:last-child { white-space: pre-wrap; }
.mlx-patch .pairs mark { background: none; color: inherit; border-bottom: 2px solid var(--more); }
.mlx-patch .pairs tr.fails td:last-child { color: var(--more); }
"""


def pairs_page(heading: str, prompts: Sequence[tuple[Any, Any]], answers: Sequence[tuple[Any, Any]]) -> str:
    """A fragment of HTML: a row for each pair, in which the words that differ are underlined.

    Args:
        heading: Above the table.
        prompts: The clean and the corrupted prompt of each pair.
        answers: The answer and the foil of each.
    """
    rows = []
    for number, (pair, (answer, foil)) in enumerate(zip(prompts[:_SHOWN], answers, strict=False)):
        clean, corrupted = marked_words(*map(prompt_text, pair))
        cells = (str(number), clean, corrupted, escape(repr(answer)), escape(repr(foil)))
        row = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f"<tr>{row}</tr>")
    if len(prompts) > _SHOWN:
        rows.append(f'<tr><td colspan="5">and {len(prompts) - _SHOWN} more</td></tr>')
    return _table(heading, ("", "clean", "corrupted", "answer", "foil"), rows)


def report_page(heading: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A fragment of HTML: the check of each pair, with what fails in red.

    Args:
        heading: Above the table.
        head: The names of the columns.
        rows: The cells of each pair; the last of them says whether it passes.
    """
    lines = []
    for row in rows[:_SHOWN]:
        kind = "fails" if row[-1].startswith("FAILS") else "passes"
        line = "".join(f"<td>{escape(cell)}</td>" for cell in row)
        lines.append(f'<tr class="{kind}">{line}</tr>')
    if len(rows) > _SHOWN:
        lines.append(f'<tr><td colspan="{len(head)}">and {len(rows) - _SHOWN} more</td></tr>')
    return _table(heading, head, lines)


def _table(heading: str, head: Sequence[str], rows: Sequence[str]) -> str:
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    table = f'<table class="numbers pairs"><thead><tr>{names}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return html_fragment(f"<p>{escape(heading)}</p>{table}", _STYLE)


def prompt_text(prompt: Any) -> str:
    """A prompt as text: of messages the role and the content, of token ids the numbers."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, mx.array):
        return str(prompt.flatten().tolist())
    if all(isinstance(message, Mapping) for message in prompt):
        return "\n".join(f"{message.get('role')}: {message.get('content')}" for message in prompt)
    return str(list(prompt))


def marked_words(first: str, second: str) -> tuple[str, str]:
    """Two texts as HTML, in which the words that differ are marked.

    Example:
        >>> marked_words("John gave <it>", "Mary gave <it>")
        ('<mark>John</mark> gave &lt;it&gt;', '<mark>Mary</mark> gave &lt;it&gt;')
    """
    words = findall(r"\s*\S+|\s+$", first), findall(r"\s*\S+|\s+$", second)
    blocks = SequenceMatcher(None, *words, autojunk=False).get_opcodes()
    first_spans = [_marked(tag, words[0][begin:end]) for tag, begin, end, _, _ in blocks]
    second_spans = [_marked(tag, words[1][begin:end]) for tag, _, _, begin, end in blocks]
    return "".join(first_spans), "".join(second_spans)


def _marked(tag: str, words: Sequence[str]) -> str:
    text = escape("".join(words))
    if tag == "equal" or not text:
        return text
    marked = text.lstrip()
    return f"{text[: len(text) - len(marked)]}<mark>{marked}</mark>"
