"""Makes examples/notebooks from docs/tutorials: page and notebook have one source.

python docs/make_notebooks.py
"""

import os
import re
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).parents[1]
TUTORIALS = ROOT / "docs" / "tutorials"
NOTEBOOKS = ROOT / "examples" / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
NOTE = """*Made from `docs/tutorials/{page}`. The first cell goes to the top of the repository, where the models are.
Install the library first: `pip install -e ".[cpu,plot]"` there, on a Mac without `cpu`.*"""
SETUP = """import os
from pathlib import Path

folders = [Path.cwd(), *Path.cwd().parents]
os.chdir(next(folder for folder in folders if (folder / "examples" / "models").is_dir()))"""

CELL = re.compile(r"^```python\n(?P<code>.*?)^```$(?:\n\n^```text\n(?P<output>.*?)^```$)?", re.MULTILINE | re.DOTALL)
"""A block of Python, and what it prints where a block of text comes right behind it."""

LINK = re.compile(r"\]\((?!https?:|#)([^)\s]+)\)")


def pages() -> list[Path]:
    """The tutorials, without the list of them."""
    return sorted(page for page in TUTORIALS.glob("*.md") if page.stem != "index")


def path_of(page: Path) -> Path:
    """Where a page's notebook is."""
    return NOTEBOOKS / f"{page.stem}.ipynb"


def with_links_from_notebooks(text: str) -> str:
    """Links of a page, as they are written in a notebook's folder."""

    def moved(match: re.Match[str]) -> str:
        return f"]({os.path.relpath(TUTORIALS / match[1], NOTEBOOKS)})"

    return LINK.sub(moved, text)


def cells_of(text: str) -> list[NotebookNode]:
    """A page's cells: text, code, and what the page says that the code prints."""
    cells: list[NotebookNode] = []
    end = 0
    for number, match in enumerate(CELL.finditer(text), 2):
        cells.append(new_markdown_cell(with_links_from_notebooks(text[end : match.start()].strip())))
        outputs = []
        if match["output"]:
            outputs.append(new_output("stream", name="stdout", text=match["output"]))
        cells.append(new_code_cell(match["code"].rstrip(), outputs=outputs, execution_count=number))
        end = match.end()
    cells.append(new_markdown_cell(with_links_from_notebooks(text[end:].strip())))
    return [cell for cell in cells if cell.source]


def notebook_of(page: Path) -> str:
    """The notebook of a page, as its file holds it."""
    note = new_markdown_cell(NOTE.format(page=page.name))
    cells = [note, new_code_cell(SETUP, execution_count=1), *cells_of(page.read_text(encoding="utf-8"))]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"  # nbformat draws one, another each time
    notebook = new_notebook(cells=cells, metadata=METADATA)
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"


def main() -> None:
    """Write them all."""
    NOTEBOOKS.mkdir(exist_ok=True)
    for page in pages():
        path_of(page).write_text(notebook_of(page), encoding="utf-8")
        sys.stdout.write(f"wrote {path_of(page).relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
