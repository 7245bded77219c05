"""The figures of house.py: no circle of imports, no crowded folder; density and names that may only get better."""

import ast
import re
from collections import Counter
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

SPEC = spec_from_file_location("house", Path(__file__).with_name("house.py"))
house = module_from_spec(SPEC)
SPEC.loader.exec_module(house)

LIMITS = {
    "nodes p90": 25,
    "ternaries per 100 statements": 0.7,
    "nested": 0,
    "vague names, percent": 0.5,
}
"""What the package must not exceed. Lower a limit when the figure falls; never raise one."""

BANNED = frozenset(
    """Setup Reading Forced Expansion InPrompt Base Placing Keeping Ran Written Held Begun Started Swept Given
    left_by entering cuts placed furthest in_fractions speaking spoken all_spoken both_kinds most_written refuse_silence
    said asked told heard""".split()
)
"""Names that were given up for nouns and verbs that say what a thing is."""

ALLOWED_TWICE = {"capture", "hand_over", "main", "run", "select", "steps"}
"""Public names that several files define. Take a name out when one file is left; never add one."""

FILLED_IN_PLACE = frozenset(
    """CellRows Hook Notes Numbers Outcome PassRun UnpatchedRun Watch _Means _Stack _Training _Walk _WayBack""".split()
)
"""Dataclasses that collect what a run or a fit gives. All others are values."""

LONGEST_TEST_NAME = 60
"""Characters, with `test_`. What does not fit is for the docstring."""


MOST_PRIVATE_IMPORTS = 46
"""Lines of tests that import from a private module of the package. Import from the package that it is in instead.

Once there were 92.
"""


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


def is_thawed(decorator):
    """Whether it makes a dataclass whose fields can be assigned."""
    return re.match(r"dataclass\b", ast.unparse(decorator)) and "frozen=True" not in ast.unparse(decorator)


def test_dataclasses_are_frozen():
    """A value that could be changed would change every plan, edit and provenance that holds it."""
    nodes = [node for tree in house.trees().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    thawed = {node.name for node in nodes if any(map(is_thawed, node.decorator_list))}
    assert thawed == FILLED_IN_PLACE


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


@pytest.fixture(scope="module")
def figures():
    return house.figures()


@pytest.mark.parametrize("figure", LIMITS)
def test_a_figure_does_not_get_worse(figures, figure):
    assert round(figures[figure], 1) <= LIMITS[figure]


def test_sentences_of_the_docs_are_short():
    assert house.words_a_sentence() <= 16


def test_names_that_were_given_up_are_not_defined_again():
    found = {name: path.name for path, tree in house.trees().items() for name in public_definitions(tree)}
    assert not BANNED & set(found), found


def test_public_names_are_defined_in_one_file():
    """Apart from ALLOWED_TWICE, which holds none that is no longer doubled; tables and zoo are one file a model."""
    found = Counter()
    for path, tree in house.trees().items():
        if not {"tables", "zoo"} & set(path.relative_to(house.PACKAGE).parts):
            found.update(set(public_definitions(tree)))
    doubled = {name for name, files in found.items() if files > 1}
    assert doubled <= ALLOWED_TWICE, doubled - ALLOWED_TWICE
    assert ALLOWED_TWICE <= doubled, ALLOWED_TWICE - doubled


def test_no_test_function_has_a_long_name():
    functions = [
        (path.name, node.name)
        for path, tree in house.trees(house.ROOT / "tests").items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]
    assert len(functions) > 1000
    assert [(file, name) for file, name in functions if len(name) > LONGEST_TEST_NAME] == []


def test_tests_import_from_packages():
    """Few imports of private modules: those that a test replaces a name in, and no more."""
    pattern = re.compile(r"from mlx_patch(\.\w+)* import .*\b_\w+|(from|import) mlx_patch(\.[a-z]\w*)*\._\w+")
    files = (house.ROOT / "tests").rglob("*.py")
    lines = [line for path in files for line in path.read_text(encoding="utf-8").splitlines() if pattern.search(line)]
    assert len(lines) <= MOST_PRIVATE_IMPORTS, lines
