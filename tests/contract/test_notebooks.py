"""The notebooks are what the tutorials give, and run from their own folder."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
SPEC = spec_from_file_location("make_notebooks", ROOT / "docs" / "make_notebooks.py")
make_notebooks = module_from_spec(SPEC)
SPEC.loader.exec_module(make_notebooks)
PAGES = make_notebooks.pages()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_notebook_is_what_its_page_gives(page):
    written = make_notebooks.path_of(page).read_text(encoding="utf-8")
    assert written == make_notebooks.notebook_of(page), "run: python docs/make_notebooks.py"


def test_each_tutorial_has_a_notebook_and_links_it():
    assert {path.stem for path in make_notebooks.NOTEBOOKS.iterdir()} == {page.stem for page in PAGES}
    for page in PAGES:
        assert f"](../../examples/notebooks/{page.stem}.ipynb)" in page.read_text(encoding="utf-8")


def test_notebooks_are_small():
    assert max(path.stat().st_size for path in make_notebooks.NOTEBOOKS.iterdir()) < 40_000


def test_a_page_becomes_cells():
    """With a link from the notebook's folder, and an output only where it comes right behind the code."""
    text = (
        "# A\n\n[b](../metrics.md#your-own)\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\n"
        "```python\nx = 2\n```\n\nc\n\n```text\nd\n```\n"
    )
    first, second, third, last = make_notebooks.cells_of(text)
    assert first.source == "# A\n\n[b](../../docs/metrics.md#your-own)"
    assert (second.source, [output.text for output in second.outputs]) == ("print(1)", ["1\n"])
    assert (third.source, third.outputs) == ("x = 2", [])
    assert last.source == "c\n\n```text\nd\n```"


def test_a_notebook_runs_from_its_folder(monkeypatch, capsys):
    """Its first cell finds the models. What the rest prints, the page's test compares."""
    monkeypatch.chdir(make_notebooks.NOTEBOOKS)
    namespace: dict[str, object] = {}
    notebook = nbformat.read(make_notebooks.NOTEBOOKS / "plugin.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, "plugin.ipynb", "exec"), namespace)
    assert Path.cwd() == ROOT
    assert "four tests passed" in capsys.readouterr().out
