"""Everything public says in its first line what it is or returns."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "mlx_patch"
FILES = sorted(PACKAGE.rglob("*.py"))
INHERITS = {"override", "overload"}


def public(body, prefix=""):
    """Public classes and functions with their names, methods too; what inherits its docstring is left out."""
    for node in body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
            continue
        if not INHERITS & {ast.unparse(decorator) for decorator in node.decorator_list}:
            yield prefix + node.name, ast.get_docstring(node) or ""
        if isinstance(node, ast.ClassDef):
            yield from public(node.body, f"{prefix}{node.name}.")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_first_lines_say_what_it_is_and_end_with_a_period(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert (ast.get_docstring(tree) or "").strip(), "a module says what it is for"
    for name, docstring in public(tree.body):
        assert docstring.partition("\n")[0].endswith("."), f"{name} of {path.name}"


@pytest.mark.parametrize(
    "source", ["def f(): pass", "class A:\n  '''No period'''", "class A:\n  '''A.'''\n  def f(): 1"]
)
def test_what_is_missing_is_found(source):
    assert not all(docstring.partition("\n")[0].endswith(".") for _, docstring in public(ast.parse(source).body))
