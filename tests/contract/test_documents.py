"""What README and docs show is what runs. Blocks with `>>>` are doctests, which pytest finds by itself."""

import re
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from code_blocks import BLOCK, blocks

import mlx_patch
from mlx_patch import HookedModel

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OF_ERRORS = {*(ROOT / "docs" / "errors").glob("*.md")} - {ROOT / "docs" / "errors" / "index.md"}
"""Their code raises, as `test_error_pages.py` holds."""


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


NUMBER = re.compile(r"(?<![\w.])-?\d+\.(\d*)(?:e(-?\d+))?(?!\w)")


def as_printed(text):
    """The words of a text with # for each decimal number; the numbers; and what 2 of the last digit of each are."""
    numbers = list(NUMBER.finditer(text))
    places = [len(number[1]) or 2 for number in numbers]  # numpy prints 0.00 as "0."
    ulps = [2.01 * 10.0 ** (int(number[2] or 0) - n) for number, n in zip(numbers, places, strict=True)]
    return NUMBER.sub("#", text).split(), [float(number[0]) for number in numbers], ulps


def assert_printed(printed, shown):
    """Word for word; decimal numbers within 2 of the last digit shown, by which another BLAS or a GPU may move them."""
    words, numbers, _ = as_printed(printed)
    shown_words, shown_numbers, ulps = as_printed(shown)
    assert words == shown_words
    for number, shown_number, ulp in zip(numbers, shown_numbers, ulps, strict=True):
        assert number == pytest.approx(shown_number, abs=ulp)


CODE = re.compile(r"^```python\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", flags=re.MULTILINE | re.DOTALL)
"""A block of Python, and what it prints where a block of text comes right behind it."""


@pytest.mark.parametrize("page", [as_case(page) for page in PAGES if page not in OF_ERRORS and blocks(page, "python")])
def test_python_blocks_run(page, named, monkeypatch, capsys):
    """In order, in one namespace, from the top of the repository, and print what the page shows.

    A tutorial is a notebook as well, so it imports whatever it needs.
    """
    monkeypatch.chdir(ROOT)
    namespace = named
    if page.parent.name == "tutorials":
        namespace = {}
    for code, shown in CODE.findall(page.read_text(encoding="utf-8")):
        if ">>>" in code:
            continue
        exec(compile(code, str(page), "exec"), namespace)
        printed = capsys.readouterr().out
        if shown:
            assert_printed(printed, shown)


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("0.53 1", "0.50 1"),
        ("0.50 2", "0.50 1"),
        ("a 0.50", "b 0.50"),
        ("[0.9 0.  ]", "[0.9 0.5 ]"),
        ("1.4e-05", "1.1e-05"),
    ],
)
def test_another_output_is_seen(printed, shown):
    assert_printed(shown, shown)
    with pytest.raises(AssertionError):
        assert_printed(printed, shown)


def test_the_readme_shows_what_its_first_lines_print(monkeypatch, capsys):
    """Its output is not right behind them."""
    monkeypatch.chdir(ROOT)
    first, *_ = blocks(ROOT / "README.md", "python")
    [shown] = blocks(ROOT / "README.md", "text")
    exec(compile(first, "README.md", "exec"), {})
    assert_printed(capsys.readouterr().out, shown)


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
