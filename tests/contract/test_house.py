"""The figures of house.py: no circle of imports, no crowded folder; density and names that may only get better."""

import ast
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

SPEC = spec_from_file_location("house", Path(__file__).with_name("house.py"))
house = module_from_spec(SPEC)
SPEC.loader.exec_module(house)

LIMITS = {
    "nodes p90": 31,
    "ternaries per 100 statements": 8.9,
    "nested": 12,
    "vague names, percent": 12.9,
}
"""What the package must not exceed. Lower a limit when the figure falls; never raise one."""

BANNED = frozenset(
    """Setup Reading Forced Expansion InPrompt Base Placing Keeping Ran Written Held Begun Started Swept Given Rows
    left_by entering cuts placed furthest in_fractions speaking spoken all_spoken both_kinds most_written refuse_silence
    said asked told heard""".split()
)
"""Names that were given up for nouns and verbs that say what a thing is."""

ALLOWED_TWICE = {"main", "steps"}
"""Public names that several files define: the entry of a program; the conditions on steps, a module and a function."""


def public_definitions(tree):
    """Names without an underscore that a module defines."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            name = node.name
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
        else:
            continue
        if not name.startswith("_"):
            yield name


def test_no_module_imports_itself_in_a_circle():
    """Under TYPE_CHECKING and inside functions as well."""
    assert house.circles(house.import_graph()) == []


def test_a_circle_is_found():
    assert house.circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


@pytest.mark.parametrize(
    "source", ["if TYPE_CHECKING:\n    from p.b import c", "def f():\n    import p.b", "from p import b"]
)
def test_imports_are_seen_wherever_they_stand(source):
    assert house.imports_of(ast.parse(source), frozenset({"p.a", "p.b"})) == {"p.b"}


def test_no_folder_of_mechanism_is_crowded():
    assert house.crowded() == {}


@pytest.mark.parametrize("figure", LIMITS)
def test_a_figure_does_not_get_worse(figure):
    assert round(house.figures()[figure], 1) <= LIMITS[figure]


def test_names_that_were_given_up_are_not_defined_again():
    found = {name: path.name for path, tree in house.trees().items() for name in public_definitions(tree)}
    assert not BANNED & set(found) - {"Rows"}, found
