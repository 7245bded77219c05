"""One version: the package's, which the release's tag must be, stands in the citation too."""

from pathlib import Path

import mlx_patch

ROOT = Path(__file__).parents[2]


def test_the_citation_has_the_version_of_the_package():
    lines = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    assert f"version: {mlx_patch.__version__}" in lines
