"""The real model, the D1 study and the loop that it comes from, each read once."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from mlx_patch import HookedModel
from mlx_patch.testing import smollm2_folder

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def smollm2():
    """SmolLM2-135M-Instruct in float32. Shared: leave its weights alone."""
    return HookedModel.load(smollm2_folder("float32"))


@pytest.fixture(scope="session")
def seed_loop():
    """The module beside this one."""
    spec = spec_from_file_location("seed_loop", Path(__file__).with_name("seed_loop.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
