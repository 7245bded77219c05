"""Imports point down only. import-linter reads the same table in `.ci/run`; this holds where it is not installed."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mlx_patch"
CONTRACT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"][0]
LAYERS = [line.split(" | ") for line in CONTRACT["layers"]]
HEIGHT = {part: -height for height, parts in enumerate(LAYERS) for part in parts}


def part_of(module):
    """`engine` of `mlx_patch.engine._tap`; None for the package itself."""
    return module.split(".")[1] if module.startswith("mlx_patch.") else None


def imports(source):
    """The parts of mlx_patch that a text imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (part_of(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from [part_of(node.module)] if node.module != "mlx_patch" else [alias.name for alias in node.names]


def upward(part, source):
    """What a text in a part of mlx_patch imports though it is not below it."""
    return {other for other in imports(source) if other and other != part and HEIGHT[other] >= HEIGHT[part]}


def parts():
    return sorted(path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists())


def test_every_part_has_a_layer():
    assert set(parts()) - {"__init__"} == set(HEIGHT)


@pytest.mark.parametrize("part", sorted(HEIGHT))
def test_imports_point_down(part):
    files = (PACKAGE / part).rglob("*.py") if (PACKAGE / part).is_dir() else [PACKAGE / f"{part}.py"]
    for path in files:
        assert not upward(part, path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize(
    ("part", "source", "found"),
    [
        ("engine", "from mlx_patch.model import HookedModel", {"model"}),
        ("engine", "from mlx_patch.interventions import Edit", {"interventions"}),
        ("sites", "def f():\n    import mlx_patch.cache", {"cache"}),
        ("tokens", "from mlx_patch import laws", {"laws"}),
        ("model", "from mlx_patch.engine import Frame", set()),
    ],
)
def test_an_import_that_points_up_or_aside_is_found(part, source, found):
    assert upward(part, source) == found
