"""Run the Python of a page, in order and in one namespace, in the current folder: `python docs/run_page.py PAGE`."""

import re
import sys
from pathlib import Path

page = Path(sys.argv[1])
space: dict[str, object] = {}
for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL):
    exec(compile(block, str(page), "exec"), space)
