"""What is generated is up to date."""

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from mlx_patch.testing import ZOO

DOCS = Path(__file__).parents[2] / "docs"


def loaded(script):
    """A script of docs, as a module."""
    spec = spec_from_file_location(script, DOCS / f"{script}.py")
    made = module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_page_of_sites_is_what_its_script_writes():
    made = loaded("make_sites")
    assert made.PAGE.read_text(encoding="utf-8") == made.page(), "run: python docs/make_sites.py"


@pytest.fixture(scope="module")
def architectures():
    return loaded("make_architectures")


def test_architectures_are_what_their_script_writes(architectures):
    """The table, the page of each family and no other, and what the site's navigation lists."""
    written = {page: page.read_text(encoding="utf-8") for page in [architectures.PAGE, *architectures.FOLDER.iterdir()]}
    assert written == architectures.pages(), "run: python docs/make_architectures.py"
    assert architectures.in_navigation() in architectures.SITE.read_text(encoding="utf-8")


def test_the_table_has_a_row_for_each_module(architectures):
    """Each leads to a heading of its family's page."""
    table = architectures.PAGE.read_text(encoding="utf-8").partition("## All of them")[2]
    rows = re.findall(r"^\| \[(\S+)\]\((\S+)#(\S+)\) \|", table, flags=re.MULTILINE)
    assert sorted(module for module, *_ in rows) == sorted({module for module, _ in ZOO.values()})
    for module, page, anchor in rows:
        assert f"\n## {module}\n" in (DOCS / page).read_text(encoding="utf-8")
        assert anchor == module.lower()


def test_the_script_of_the_table_asks_no_network():
    """A site that is opened from disk, or behind a wall, works."""
    scripts = [path.read_text(encoding="utf-8") for path in (DOCS / "javascripts").glob("*.js")]
    assert scripts
    for script in scripts:
        assert not re.search(r"https?:|fetch|XMLHttpRequest|import\b", script)
