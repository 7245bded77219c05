"""The shell of every HTML page: one file, no network, dark and light."""

import json
from html import escape
from typing import Any

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""A page with a script loads nothing from anywhere, whatever is in it."""

# Rules are those of `.mlx-patch`, since a notebook shows a page among others. Only where the page is by itself, and so
# a child of the body, does it colour the body.
_STYLE = """
.mlx-patch { color-scheme: light dark; --ink: #1b1b1b; --paper: #ffffff; --line: #d4d4d4; --soft: #666666;
  --more: #b2182b; --less: #2166ac; --middle: #f4f4f4; --nothing: #bdbdbd;
  font: 13px/1.45 system-ui, sans-serif; color: var(--ink); }
@media (prefers-color-scheme: dark) {
  .mlx-patch { --ink: #e8e8e8; --paper: #161616; --line: #3d3d3d; --soft: #a0a0a0;
    --more: #ff6a5c; --less: #57a5f5; --middle: #2b2b2b; --nothing: #6b6b6b; }
  body:has(> .mlx-patch) { background: #161616; }
}
.mlx-patch h1 { font-size: 16px; margin: 0 0 8px; }
.mlx-patch table { border-collapse: collapse; }
.mlx-patch .numbers td, .mlx-patch .numbers th { border: 1px solid var(--line); padding: 1px 6px; text-align: right; }
.mlx-patch .numbers th { font-weight: normal; text-align: left; }
.mlx-patch .numbers caption { text-align: left; padding: 8px 0 2px; }
"""


def html_page(title: str, body: str, *, style: str = "", data: Any = None, script: str = "") -> str:
    """A page that needs no other file and loads nothing.

    Args:
        title: Of the page, as text.
        body: HTML. Text in it must be escaped.
        style: CSS rules, beside those of every page.
        data: JSON values for the script, as `document.getElementById("data")` has them.
        script: JavaScript.
    """
    head = [
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}{style}</style>",
    ]
    if script:
        head.insert(1, f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">')
    lines = [
        "<!doctype html>",
        '<html lang="en"><head>',
        *head,
        f'</head><body><main class="mlx-patch">{body}</main>',
    ]
    if script:
        lines.append(f'<script type="application/json" id="data">{_json_in_html(data)}</script>')
        lines.append(f"<script>{script}</script>")
    return "\n".join([*lines, "</body></html>", ""])


def html_fragment(body: str, style: str = "") -> str:
    """A few elements without a script, for the output of a notebook.

    Args:
        body: HTML. Text in it must be escaped.
        style: CSS rules, each of `.mlx-patch`, since the notebook has others.
    """
    return f'<div class="mlx-patch"><style>{_STYLE}{style}</style>{body}</div>'


def _json_in_html(data: Any) -> str:
    """JSON in which no text can end the element that holds it."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def html_table(head: list[str], rows: list[list[str]], name: str = "") -> str:
    """A table of texts, which are escaped; the first of each row is its heading."""
    heading = "".join(f'<th scope="col">{escape(text)}</th>' for text in head)
    body = []
    for first, *numbers in rows:
        cells = "".join(f"<td>{escape(text)}</td>" for text in numbers)
        body.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    caption = ""
    if name:
        caption = f"<caption>{escape(name)}</caption>"
    return f'<table class="numbers">{caption}<thead><tr>{heading}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def html_frame(page: str, height: int) -> str:
    """A page inside another, as a notebook shows it: neither sees the other's names and styles.

    Args:
        page: The page.
        height: In pixels; of a page that is longer, the frame scrolls.
    """
    style = f"width: 100%; height: {height}px; border: 0"
    return f'<iframe srcdoc="{escape(page)}" sandbox="allow-scripts" style="{style}"></iframe>'
