"""A real package, installed by pip, offers a metric that mlx_patch finds by name."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mlx_patch
from mlx_patch import metrics

PLUGIN = Path(__file__).parents[1] / "plugin"
PACKAGE = "mlx_patch_example_plugin"


def run_python(*arguments: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, f"{arguments} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the plugin, from a copy, so that nothing is written beside the original."""
    source = shutil.copytree(
        PLUGIN, tmp_path_factory.mktemp("source") / "plugin", ignore=shutil.ignore_patterns("__pycache__", "build")
    )
    target = tmp_path_factory.mktemp("installed")
    options = ["--no-deps", "--disable-pip-version-check", "--no-input", "--target", str(target)]
    if importlib.util.find_spec("hatchling"):  # else pip fetches it for the build
        options.append("--no-build-isolation")
    run_python("-m", "pip", "install", *options, str(source))
    return target


def run_with(installed: Path, code: str) -> str:
    """What code prints where the plugin and this mlx_patch can be imported."""
    root = Path(mlx_patch.__file__).parents[1]
    return run_python("-c", code, PYTHONPATH=os.pathsep.join([str(installed), str(root)]))


def test_the_metric_is_found_by_name(installed):
    code = """
import sys
import mlx.core as mx
from mlx_patch import metrics

assert "example_top_margin" in metrics.registered()
assert "mlx_patch_example_plugin" not in sys.modules, "asking for names must import nothing"
margin = metrics.named("example_top_margin")
print(margin.name, margin(mx.array([[[1.0, 5.0, 3.0]], [[4.0, 4.0, 0.0]]])).tolist())
"""
    assert run_with(installed, code) == "example_top_margin [2.0, 0.0]"


def test_the_name_stands_for_the_metric(installed):
    code = """
import mlx.core as mx
from mlx_patch import metrics

print(metrics.as_metric("example_top_margin")(mx.array([[[1.0, 5.0]]])).item())
"""
    assert run_with(installed, code) == "4.0"


def test_a_metric_of_several_positions_pays_for_those(installed):
    """Three positions of twelve, edited at the tenth: what lies behind it, and the unpatched run."""
    code = """
import mlx_patch as mp
from mlx_patch.testing import tiny_model

model = mp.HookedModel(tiny_model("llama"))
tokens = [list(range(1, 13))]
result = mp.sweep(model, tokens, mp.Scale(3.0), "mlp_out", "layer", "example_last_margins", positions=[9])
print(result.provenance["token_layers"], result.plan.minimum, result.metrics)
"""
    assert run_with(installed, code) == "54 54 ('example_last_margins',)"


def test_an_intervention_is_on_the_fast_path(installed):
    """It runs in pieces, its rows enter with nothing of the unpatched run, and "alpha" varies its strength."""
    code = """
import numpy as np
import mlx_patch as mp
from mlx_patch.execution.cells import cell_of, unpatched_sites
from mlx_patch.execution.passes import PassRun
from mlx_patch.sweeps import pieces_of
from mlx_patch.testing import tiny_model
from mlx_patch_example_plugin import Wave

model, pieces, run = mp.HookedModel(tiny_model("llama")), [], PassRun.run
def noted(self, *args, **kwargs):
    values = run(self, *args, **kwargs)
    pieces.append(self.in_pieces)
    return values
PassRun.run = noted
ask = {"at": "resid_post", "over": ("layer", "alpha"), "alphas": [0.5, 2.0], "metric": mp.metrics.LogProb(3)}
with pieces_of(4):
    fast = mp.sweep(model, [list(range(1, 13))], Wave(1.0), **ask)
whole = mp.sweep(model, [list(range(1, 13))], Wave(1.0), executor="reference", **ask)
cell = cell_of(model.layout, [Wave(1.0).at("resid_post", layer=0)], 12, 11)
print(np.abs(fast.values - whole.values).max() < 1e-5, fast.plan.executor, all(pieces), bool(pieces))
print(np.ptp(whole.values[..., 0], axis=1).min() > 1e-3, unpatched_sites(model.layout, [cell]))
"""
    assert run_with(installed, code) == "True grow True True\nTrue ()"


def test_an_error_names_the_package(installed, tmp_path):
    """The same package with its code gone, as after an upgrade that went wrong."""
    broken = shutil.copytree(installed, tmp_path / "broken")
    (broken / PACKAGE / "__init__.py").write_text("import a_module_that_is_not_there\n")
    code = """
from mlx_patch import errors, metrics

print(metrics.named("entropy"))
try:
    metrics.named("example_top_margin")
except errors.MissingExtraError as error:
    print("mlx-patch-example-plugin" in str(error), "a_module_that_is_not_there" in str(error))
"""
    assert run_with(broken, code).split("\n") == ["Entropy()", "True True"]


def test_without_the_package_there_is_no_such_name():
    assert "example_top_margin" not in metrics.registered()


def test_the_tutorial_shows_the_package():
    """What it defines is in the package or among its tests, and its table is in pyproject.toml, word for word."""
    page = (PLUGIN.parents[1] / "docs" / "tutorials" / "plugin.md").read_text(encoding="utf-8")
    files = "\n".join(path.read_text(encoding="utf-8") for path in PLUGIN.rglob("*.py"))
    definitions = []
    for code in re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        for node in ast.parse(code).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                definitions += [ast.get_source_segment(code, part) for part in (node, *node.decorator_list)]
    assert len(definitions) == 8
    for definition in definitions:
        assert definition in files, definition
    [table] = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert table.strip() in (PLUGIN / "pyproject.toml").read_text(encoding="utf-8")
