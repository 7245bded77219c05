"""What can be imported is what `exports.txt` lists: a name more or less is a change that users see."""

import ast
import importlib
from dataclasses import is_dataclass
from pathlib import Path

import pytest

import mlx_patch

LIST = Path(__file__).parent / "exports.txt"
PACKAGE = Path(mlx_patch.__file__).parent

FILLED_IN_PLACE = {"CellRows", "Hook", "Notes", "Numbers", "PassRun", "UnpatchedRun"}
"""Dataclasses that collect what a run gives. All others are values."""


def public_modules():
    """Every module whose path has no underscore, with its file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(["mlx_patch", *(part for part in parts if part != "__init__")])
        if "._" not in name:
            yield name, path


def exports(source):
    """What a text writes itself or hands on with `import x as x`, of names without an underscore."""
    for node in ast.parse(source).body:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Assign(targets=[ast.Name(id=name)]):
                yield name
            case ast.ImportFrom(names=names):
                yield from (alias.name for alias in names if alias.asname == alias.name)


def frozen():
    lines = LIST.read_text(encoding="utf-8").splitlines()
    return {name: names.split() for name, _, names in (line.partition(":") for line in lines)}


def test_exports_are_frozen():
    now = {
        name: sorted(name for name in exports(path.read_text(encoding="utf-8")) if not name.startswith("_"))
        for name, path in public_modules()
    }
    assert now == frozen()


@pytest.mark.parametrize("name", frozen())
def test_everything_that_is_listed_is_there(name):
    module = importlib.import_module(name)
    assert all(hasattr(module, export) for export in frozen()[name])


def test_exported_dataclasses_are_frozen():
    """A value that could be changed would change every plan, edit and provenance that holds it."""
    exported = [getattr(importlib.import_module(name), export) for name, names in frozen().items() for export in names]
    classes = {export for export in exported if isinstance(export, type) and is_dataclass(export)}
    assert {value.__name__ for value in classes if not value.__dataclass_params__.frozen} == FILLED_IN_PLACE
    assert len(classes) > 100
