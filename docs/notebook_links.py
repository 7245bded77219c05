"""A hook of mkdocs.yml: puts the notebooks of examples/notebooks on the site, beside the tutorials that link them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

NOTEBOOKS = Path(__file__).parents[1] / "examples" / "notebooks"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages of the site, and the notebooks."""
    from mkdocs.structure.files import File

    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        files.append(File.generated(config, f"tutorials/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """A page whose links to notebooks, which are those of the repository, lead to the site's."""
    return markdown.replace("](../../examples/notebooks/", "](")
