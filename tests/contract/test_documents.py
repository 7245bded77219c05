"""What README and docs show is what runs. Blocks with `>>>` are doctests, which pytest finds by itself."""

import re
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch
from mlx_patch import HookedModel

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OF_ERRORS = {*(ROOT / "docs" / "errors").glob("*.md")} - {ROOT / "docs" / "errors" / "index.md"}
"""Their code raises, as `test_error_pages.py` holds."""
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def blocks(page, *languages):
    """The code blocks of a page that are in one of these languages."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [text for language, text in found if language in languages]


class Words:
    """A tokenizer to which every word is one token, with the space before it: `" Mary"`."""

    bos_token = None

    def __init__(self):
        self.words: list[str] = []

    def encode(self, text, add_special_tokens=True):
        words = re.findall(r"\s?\S+", text)
        self.words += [word for word in dict.fromkeys(words) if word not in self.words]
        return [self.words.index(word) for word in words]

    def decode(self, ids):
        return "".join(self.words[token] for token in ids)


@pytest.fixture
def named(tiny):
    """What a page that speaks of a model and of tokens means by them."""
    model = HookedModel(tiny("llama").model, Words())
    tokens = model.tokenize("When John and Mary went to the shops")
    return {"mp": mlx_patch, "mx": mx, "np": np, "model": model, "tokens": tokens}


def test_the_first_block_of_the_readme_is_two_commands():
    """`.ci/run` runs them."""
    first = BLOCK.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert first is not None
    assert first[1] == "bash"
    study, tests = first[2].splitlines()
    for line in (study, tests):
        assert line.startswith("python3 -m venv .venv && .venv/bin/pip install -q -e ")
    assert study.endswith("examples/d1_externalization.py")
    assert tests.endswith("-m pytest -q -n 2")


def as_case(page):
    """A page as a case of a test; one that loads SmolLM2 is marked so."""
    if any("smollm2_folder" in text for text in blocks(page, "python")):
        return pytest.param(page, marks=[pytest.mark.real, pytest.mark.slow], id=page.name)
    return pytest.param(page, id=page.name)


@pytest.mark.parametrize("page", [as_case(page) for page in PAGES if page not in OF_ERRORS and blocks(page, "python")])
def test_python_blocks_run(page, named, monkeypatch, capsys):
    """In order, in one namespace, from the top of the repository."""
    monkeypatch.chdir(ROOT)
    for text in blocks(page, "python"):
        if ">>>" not in text:
            exec(compile(text, str(page), "exec"), named)


NUMBER = re.compile(r"\d\.\d\d")


def test_the_readme_shows_what_its_first_lines_print(monkeypatch, capsys):
    """Word for word; numbers within 2 hundredths, which another BLAS or a GPU may move them by in half precision."""
    monkeypatch.chdir(ROOT)
    first, *_ = blocks(ROOT / "README.md", "python")
    [shown] = blocks(ROOT / "README.md", "text")
    exec(compile(first, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in (printed, shown)]
    assert numbers[0] == pytest.approx(numbers[1], abs=0.02)


def test_the_readme_s_first_lines_show_an_effect():
    """From nothing to nearly all, and back by an ablation: a reader need not know what is large."""
    [shown] = blocks(ROOT / "README.md", "text")
    probs = [float(number) for number in re.findall(r": (\d\.\d\d)", shown)]
    assert max(probs) - min(probs) > 0.9


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_its_language(page):
    assert blocks(page, "") == []
    assert page.read_text(encoding="utf-8").count("```") % 2 == 0


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def anchors(page):
    """The headings of a page, as mkdocs and GitHub name them in a link."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for heading in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_from_outside_the_site_lead_to_a_heading(name):
    """The site's own links are checked when it is built: mkdocs is strict."""
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", (ROOT / name).read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert anchor in anchors(ROOT / target if target else ROOT / name), f"{target}#{anchor}"
