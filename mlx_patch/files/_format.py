"""`Format`: the name and the version that a file says of itself."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from typing_extensions import override

from mlx_patch.errors import FileError

_KEY = "format"


@dataclass(frozen=True)
class Format:
    """The format of a file, which its description says as one text.

    Attributes:
        name: What kind of file it is.
        version: Which version of that kind.
    Example:
        >>> Format("mlx_patch.SweepResult", 1).entry
        {'format': 'mlx_patch.SweepResult/1'}
    """

    name: str
    version: int

    @override
    def __str__(self) -> str:
        return f"{self.name}/{self.version}"

    @property
    def entry(self) -> dict[str, str]:
        """The entry of a file's description that says the format."""
        return {_KEY: str(self)}

    def describes(self, about: object) -> bool:
        """Whether a description says this format."""
        return self.version_in(about) == str(self.version)

    def version_in(self, about: object) -> str | None:
        """The version that a description says, as text; None where it says another name, or none."""
        if not isinstance(about, Mapping):
            return None
        name, _, version = str(about.get(_KEY, "")).partition("/")
        if name != self.name:
            return None
        return version

    def refuse_other_version(self, about: object, argument: str, path: str | os.PathLike[str], remedy: str) -> None:
        """Refuse a file whose description says another version of this format.

        Args:
            about: The description.
            argument: The caller's name for the file.
            path: The file.
            remedy: What to do about it.
        Raises:
            FileError: It does.
        """
        version = self.version_in(about)
        if version and not self.describes(about):
            raise FileError(
                f"`{argument}` must have format version {self.version}. Got {path}, which has version {version}. "
                f"{remedy}"
            )
