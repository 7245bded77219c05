"""What mkdocs does with pages before it builds the site: docs/whats-new.md gets the text of CHANGELOG.md."""

import re
from pathlib import Path
from typing import Any

CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"
_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:)([^)]+)\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The text of a page; that of the changes for their page."""
    if page.file.src_uri != "whats-new.md":
        return markdown
    return changes(CHANGELOG.read_text(encoding="utf-8"))


def changes(text: str) -> str:
    """The changes with links as from docs; what is not in docs is no link.

    Example:
        >>> changes("[Sweeps](docs/sweeps.md#plan), [how](CONTRIBUTING.md), [form](https://keepachangelog.com)")
        '[Sweeps](sweeps.md#plan), how, [form](https://keepachangelog.com)'
    """

    def moved(link: re.Match[str]) -> str:
        words, target = link.groups()
        inside = target.removeprefix("docs/")
        return words if inside == target else f"[{words}]({inside})"

    return _LINK.sub(moved, text)
