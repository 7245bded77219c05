"""Importing mlx_patch does nothing but import: no file, no warning, no array, no seed, nothing heavy."""

import json
import os
import subprocess
import sys

import pytest

CODE = """
import json, os, random, sys, warnings
import mlx.core as mx, mlx_lm, numpy as np

def state():
    return {
        "memory": (mx.get_active_memory(), mx.get_peak_memory()),
        "mlx seed": [array.tolist() for array in mx.random.state],
        "numpy seed": str(np.random.get_state()),
        "python seed": str(random.getstate()),
        "environment": dict(os.environ),
        "filters": str(warnings.filters[1:]),
        "device": str(mx.default_device()),
        "folder": os.getcwd(),
        "path": list(sys.path),
    }

mx.random.seed(5)
before, modules = state(), set(sys.modules)
with warnings.catch_warnings():
    warnings.simplefilter("error")
    import mlx_patch
after = state()
new = {name.partition(".")[0] for name in set(sys.modules) - modules}
print(json.dumps({
    "changed": [name for name in before if before[name] != after[name]],
    "packages": sorted(new - set(sys.stdlib_module_names)),
    "modules": sorted(name for name in sys.modules if name.startswith("mlx_patch")),
}))
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """What importing changed, in a fresh interpreter in an empty folder with an empty home."""
    folder = tmp_path_factory.mktemp("empty")
    places = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "TMPDIR", "HF_HOME"), str(folder))
    done = subprocess.run(
        [sys.executable, "-B", "-c", CODE],
        cwd=folder,
        env={**os.environ, **places},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "files": [str(path) for path in folder.rglob("*")]}


def test_importing_changes_no_state(imported):
    assert imported["changed"] == []


def test_importing_writes_no_file(imported):
    assert imported["files"] == []


def test_importing_brings_only_itself_and_what_mlx_lm_has(imported):
    """Seconds depend on the machine; what is loaded does not. Plots, tables and test tools are somebody else's."""
    assert imported["packages"] == ["mlx_patch"]


def test_importing_leaves_the_testing_tools_out(imported):
    assert "mlx_patch.model" in imported["modules"]
    assert not [name for name in imported["modules"] if name.startswith("mlx_patch.testing")]
