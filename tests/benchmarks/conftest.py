"""Benchmarks are scripts that import one another: tests do as they do."""

from importlib import import_module
from pathlib import Path

import pytest

collect_ignore = ["beside"]
"""Programs that run in other environments, with torch."""


@pytest.fixture
def benchmark_script(monkeypatch):
    """A function that loads a benchmark by its name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return import_module
