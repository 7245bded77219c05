"""Run the Python of a page, in order and in one namespace, in the current folder: `python docs/run_page.py PAGE`."""

import re
import sys
from pathlib import Path

BLOCK = re.compile(r"^```python\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def run(page: Path) -> None:
    """Run every block of a page."""
    space: dict[str, object] = {}
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        exec(compile(block, str(page), "exec"), space)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
