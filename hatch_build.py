"""Where the project lives: its links, in the metadata of what is built.

The address is that of the repository in which a build runs, which GitHub names in the environment. PyPI shows the
README without the repository's files, so its links and figures are made absolute there. A build anywhere else has no
links, and the README as it is.
"""

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(!?\[[^\]]*\]\()(?![a-z]+:|#)([^)]+\))")


class Address(MetadataHookInterface):
    """Fills in `readme` and `urls`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add both to the metadata of the project."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        repository = os.environ.get("GITHUB_REPOSITORY", "")  # "owner/name"
        if repository:
            host = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
            text = absolute(text, f"{host}/{repository}", os.environ.get("GITHUB_REF_NAME", "main"))
            metadata["urls"] = urls(f"{host}/{repository}")
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def urls(address: str) -> dict[str, str]:
    """The links that PyPI shows beside the text."""
    owner, name = address.split("/")[-2:]
    return {
        "Documentation": f"https://{owner.lower()}.github.io/{name}/",
        "Source": address,
        "Issues": f"{address}/issues",
        "Changelog": f"{address}/blob/main/CHANGELOG.md",
    }


def absolute(text: str, address: str, ref: str) -> str:
    """Markdown whose relative links lead to the repository's files: figures to the bytes, all else to the page."""

    def replaced(match: re.Match[str]) -> str:
        kind = "raw" if match[1].startswith("!") else "blob"
        return f"{match[1]}{address}/{kind}/{ref}/{match[2]}"

    return _LINK.sub(replaced, text)
