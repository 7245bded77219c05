"""The reference of the site has every public name, and the site has every page."""

import inspect
import re
from pathlib import Path

import pytest
import yaml

import mlx_patch as mp

ROOT = Path(__file__).parents[2]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
NAMES = set(re.findall(r"^::: mlx_patch\.(\S+)", TEXT, flags=re.MULTILINE))
IN_PAGES_OF_MODULES = {"PatchError": "errors"}
HOUSES = {"": mp, "circuits.": mp.circuits, "lens.": mp.lens, "dictionaries.": mp.dictionaries, "recipes.": mp.recipes}


class SiteSettings(yaml.SafeLoader):
    """Reads mkdocs.yml, which takes addresses from the environment."""


SiteSettings.add_constructor("!ENV", lambda loader, node: None)


@pytest.mark.parametrize("house", HOUSES)
def test_every_public_name_is_in_the_reference(house):
    public = {f"{house}{name}" for name, value in vars(HOUSES[house]).items() if is_public(name, value)}
    elsewhere = {name for name, module in IN_PAGES_OF_MODULES.items() if module in NAMES}
    assert public - NAMES - elsewhere - {"dictionaries.Features"} == set()  # mp.Features


def is_public(name, value) -> bool:
    return not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value))


def test_what_the_reference_names_is_there():
    for name in NAMES:
        value = mp
        for part in name.split("."):
            value = getattr(value, part)


def test_the_site_has_every_page():
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), SiteSettings)
    assert set(pages_of(settings["nav"])) == pages


def pages_of(nav):
    """The pages of a navigation, at any depth."""
    if isinstance(nav, str):
        yield nav
    for entry in nav if isinstance(nav, list) else getattr(nav, "values", tuple)():
        yield from pages_of(entry)


def test_a_warning_of_the_site_s_build_fails_it():
    """With `--quiet`, mkdocs counts no warning, whatever `strict` says: a dead link would pass."""
    [line] = re.findall(r".*mkdocs build.*", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    assert "--strict" in line
    assert not re.search(r"\s(--quiet|-q)\b", line.partition("#")[0])
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), SiteSettings)
    assert settings["validation"]["anchors"] == "warn"
