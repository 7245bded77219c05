"""Zoo and registry cover what the installed mlx_lm has, and the zoo's models are not degenerate."""

import ast
from importlib.util import find_spec
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_patch.architectures import FAMILIES
from mlx_patch.testing import EXCEPTIONS, ZOO, tiny_model

NOT_RUN = {"bitnet", "olmo"}  # their reasons are in EXCEPTIONS, and in test_laws.py
TOKENS = mx.array([[(11 + 37 * i) % 96 for i in range(8)]])


def modules_of_mlx_lm():
    """The modules that define a `Model`, found without running any."""
    (folder,) = find_spec("mlx_lm.models").submodule_search_locations
    for path in Path(folder).glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.ClassDef) and node.name == "Model" for node in tree.body):
            yield path.stem


def differences(has):
    """What is missing from a set of modules, and what it has that mlx_lm has not."""
    there = set(modules_of_mlx_lm())
    assert len(there) > 100
    return {"missing": sorted(there - has), "unknown to mlx_lm": sorted(has - there)}


def test_the_zoo_has_every_module_of_mlx_lm():
    found = differences({module for module, _ in ZOO.values()})
    assert found == {"missing": [], "unknown to mlx_lm": []}, f"the zoo: {found}"


def test_the_registry_has_every_module_of_mlx_lm():
    found = differences({module for family in FAMILIES for module in family.modules})
    assert found == {"missing": [], "unknown to mlx_lm": []}, f"the registry: {found}"


@pytest.mark.parametrize("name", [name for name in ZOO if name not in NOT_RUN])
def test_a_model_tells_prompts_apart(name):
    model = tiny_model(name)
    # Phi 3 small gives its special tokens, which come later, minus infinity.
    first, second = (model(tokens)[..., :96] for tokens in (TOKENS, (TOKENS + 48) % 96))
    assert mx.all(mx.isfinite(first)).item()
    assert mx.all(mx.isfinite(second)).item()
    apart = mx.max(mx.abs(first - second), axis=-1)
    assert (apart > 1e-2 * mx.max(mx.abs(first))).all().item()


def test_what_is_not_run_is_an_exception():
    assert NOT_RUN <= set(EXCEPTIONS)
