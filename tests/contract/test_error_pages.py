"""Each error class has a page, and each message on it is what the code above it raises, word for word."""

import inspect
import re
import sys
import warnings
from importlib import import_module
from pathlib import Path

import pytest

from mlx_patch import errors

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "errors"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d+\.\d+|\d{4,}")
"""What another BLAS may round otherwise."""
CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and value.__module__ == errors.__name__ and value is not errors.PatchError
}
ON_TWO_RANKS = "RankError"
"""Its code runs on two ranks, in tests/distributed."""


def cases(page):
    """The code blocks of a page, each with the message that follows it; empty where none follows."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    following = [*found[1:], ("", "")]
    for (language, code), (next_language, message) in zip(found, following, strict=True):
        if language == "python":
            yield code, message if next_language == "text" else ""


def outcome(code, namespace) -> BaseException | None:
    """What a block raises or warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            exec(compile(code, "a block", "exec"), namespace)
        except (errors.PatchError, UserWarning) as raised:
            return raised
    return None


def plain(text):
    """A message without its line breaks, and without numbers that are rounded."""
    return NUMBER.sub("#", " ".join(text.split()))


def as_shown(error):
    """As Python shows it at the end of a traceback."""
    return f"{type(error).__module__}.{type(error).__name__}: {error}"


def test_every_class_has_a_page_and_every_page_a_class():
    assert {page.stem for page in FOLDER.glob("*.md")} - {"index"} == set(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_a_page_says_what_its_class_is(name):
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    builtin = CLASSES[name].__bases__[-1].__name__
    assert text.startswith(f"# {name}\n")
    assert f"`{builtin}`" in text.partition("\n## ")[0]


@pytest.mark.parametrize("name", [name for name in CLASSES if name != ON_TWO_RANKS])
def test_messages_are_what_the_code_raises(name, monkeypatch):
    """In order, in one namespace, one at least for each heading."""
    monkeypatch.chdir(ROOT)
    namespace, provoked = {}, 0
    for module in ("pandas", "matplotlib"):  # a page may hide them; then they come back
        monkeypatch.setitem(sys.modules, module, import_module(module))
    for code, message in cases(FOLDER / f"{name}.md"):
        error = outcome(code, namespace)
        assert error is None or isinstance(error, CLASSES[name])
        assert plain(message) == plain(as_shown(error) if error else "")
        provoked += error is not None
    assert provoked == (FOLDER / f"{name}.md").read_text(encoding="utf-8").count("\n## ")


def test_the_index_lists_every_page():
    rows = re.findall(r"^\| \[(\w+)\]\((\w+)\.md\) \|", (FOLDER / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name, _ in rows] == [page for _, page in rows]
    assert {name for name, _ in rows} == set(CLASSES)
