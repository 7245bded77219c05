"""What is generated is up to date."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_of_sites_says_what_the_tables_say():
    spec = importlib.util.spec_from_file_location("make_sites", DOCS / "make_sites.py")
    make_sites = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_sites)
    assert make_sites.PAGE.read_text(encoding="utf-8") == make_sites.page(), "run: python docs/make_sites.py"
