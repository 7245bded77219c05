"""Makes the figures of docs/gallery.md from the code of its cards: `python docs/make_gallery.py [name ...]`.

A card's figure is what its code leaves in `axes`.
"""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "gallery.md"
_PART = re.compile(r"!\[.*?\]\(figures/gallery_(\w+)\.png\)|^```python\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def cards() -> Iterator[tuple[str, str]]:
    """Each code block, with the name of the figure above it: the first has none."""
    name = ""
    shared = False
    for figure, code in _PART.findall(PAGE.read_text(encoding="utf-8").partition("</div>")[2]):
        name = figure or name
        if code:
            yield (name if shared else ""), code
            shared = True


def main(*names: str) -> None:
    """Run the cards, and write the figures that are named, or all."""
    mpl.use("agg")
    os.chdir(ROOT)
    namespace: dict[str, Any] = {}
    for name, code in cards():
        if names and name and name not in names:
            continue
        exec(compile(code, f"card {name}", "exec"), namespace)
        if name:
            axes = namespace.pop("axes")
            axes.figure.savefig(ROOT / "docs" / "figures" / f"gallery_{name}.png", dpi=70, bbox_inches="tight")


if __name__ == "__main__":
    main(*sys.argv[1:])
