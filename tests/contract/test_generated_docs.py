"""What is generated is up to date."""

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("script", ["make_sites", "make_architectures"])
def test_a_page_says_what_its_script_writes(script):
    spec = importlib.util.spec_from_file_location(script, DOCS / f"{script}.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert made.PAGE.read_text(encoding="utf-8") == made.page(), f"run: python docs/{script}.py"
