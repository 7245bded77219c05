"""What can be imported is what `exports.txt` lists: a name more or less is a change that users see."""

import ast
import importlib
from pathlib import Path

import pytest

import mlx_patch

LIST = Path(__file__).parent / "exports.txt"
PACKAGE = Path(mlx_patch.__file__).parent


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
