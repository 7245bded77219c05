"""Every skip and every expected failure is named in QUARANTINE.md, with its reason and what would lift it."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
MARKS = re.compile(r"(^|\.)(skip|skipif|xfail|importorskip)$")


def quarantined(source):
    """The functions of a text, or `<module>`, in which something is skipped or expected to fail."""
    tree = ast.parse(source)
    for node in tree.body:
        named = getattr(node, "name", "<module>")
        for inner in ast.walk(node):
            if isinstance(inner, ast.Attribute) and MARKS.search(ast.unparse(inner)):
                yield named
                break


def found():
    return {
        f"{path.relative_to(TESTS)}::{name}"
        for path in TESTS.rglob("*.py")
        if path != Path(__file__)
        for name in quarantined(path.read_text(encoding="utf-8"))
    }


def test_what_is_skipped_is_accounted_for_and_nothing_else_is():
    listed = re.findall(r"^\| `([^`]+)` \|", (TESTS / "QUARANTINE.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(listed) == found()


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    pytest.skip('why')",
        "@pytest.mark.skipif(True, reason='')\ndef f(): pass",
        "@pytest.mark.parametrize('a', [pytest.param(1, marks=pytest.mark.xfail)])\ndef f(a): pass",
        "class f:\n    def g(self):\n        pytest.importorskip('a')",
    ],
)
def test_a_skip_is_found(source):
    assert list(quarantined(source)) == ["f"]
