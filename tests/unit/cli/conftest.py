"""What tests of the command have: models that are read once, and the command with what it prints."""

from functools import cache
from pathlib import Path

import pytest

from mlx_patch import HookedModel, cli

MODELS = Path(__file__).parents[3] / "examples" / "models"
TINY = str(MODELS / "tiny_instruct_ext")
CLEAN, CORRUPTED = "Mars (planet 4, diameter", "Mars (planet 7, diameter"

LOAD = HookedModel.load


@cache
def _loaded(path, adapter_path):
    return LOAD(path, adapter_path=adapter_path)


@pytest.fixture
def loaded_once(monkeypatch):
    """`HookedModel.load` reads each model once for all tests."""

    def load(path, adapter_path=None):
        if not Path(path).is_dir() or adapter_path is not None:
            return LOAD(path, adapter_path=adapter_path)
        return _loaded(str(path), adapter_path)

    monkeypatch.setattr(HookedModel, "load", load)
    return load


@pytest.fixture
def model(loaded_once):
    """The model that the commands name as TINY."""
    return loaded_once(TINY)


@pytest.fixture
def command(loaded_once, capsys):
    """Runs the command: its exit status, and what it wrote to stdout and stderr."""

    def run(*arguments):
        capsys.readouterr()
        status = cli.main(list(map(str, arguments)))
        out, err = capsys.readouterr()
        return status, out, err

    return run
