"""Each card of the gallery is a question, a figure and about ten lines, which `test_documents.py` runs."""

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "gallery.md").read_text(encoding="utf-8")
CARDS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, flags=re.MULTILINE | re.DOTALL))
MOST_LINES = 10


@pytest.mark.parametrize("question", CARDS)
def test_a_card_is_a_question_a_figure_and_some_lines(question):
    card = CARDS[question]
    assert question.endswith("?")
    [code] = re.findall(r"^```python\n(.*?)^```$", card, flags=re.MULTILINE | re.DOTALL)
    assert len(code.splitlines()) <= MOST_LINES
    assert re.search(r"^axes = ", code, flags=re.MULTILINE)
    [figure] = re.findall(r"^!\[.+\]\((figures/gallery_\w+\.png)\)$", card, flags=re.MULTILINE)
    assert (DOCS / figure).exists()
    assert re.search(r"^More: .*\]\(", card, flags=re.MULTILINE)


def test_the_grid_shows_every_card():
    grid = TEXT.partition("</div>")[0]
    assert re.findall(r"^- \[\*\*(.+?)\*\* ", grid, flags=re.MULTILINE) == list(CARDS)


def test_the_script_finds_each_card_s_code():
    spec = spec_from_file_location("make_gallery", DOCS / "make_gallery.py")
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    names = [name for name, _ in script.cards()]
    assert names[0] == ""
    assert {f"gallery_{name}.png" for name in names[1:]} == {path.name for path in (DOCS / "figures").glob("gallery_*")}
    assert len(names) == len(set(names)) == 1 + len(CARDS)
