"""Atomic writes: a file is written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from time import time

from mlx_patch import arguments
from mlx_patch.errors import FileError


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path to write to, renamed to `path` if the block succeeds and removed if it fails.

    Raises:
        FileError: The folder is not there or cannot be written to, or `path` is itself a folder.
    """
    target = arguments.path("path", path)
    if target.is_dir():
        raise FileError(f"`path` must be a file's name. Got {target}, which is a directory. Choose another name.")
    try:
        with NamedTemporaryFile(dir=target.parent, prefix=_prefix(target), suffix=target.suffix, delete=False) as file:
            temporary = Path(file.name)
    except OSError as error:
        raise FileError(
            f"`path` must be in a folder that can be written to. Got {target}: {error.strerror}. Choose another folder."
        ) from error
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: str | os.PathLike[str], older_than: float = 60.0) -> None:
    """Remove the temporary files that killed processes left beside `path`.

    Args:
        path: As for `written_whole`.
        older_than: Seconds; a younger file may belong to a process that is writing it.
    """
    target = Path(path)
    for file in target.parent.iterdir():
        if file.name.startswith(_prefix(target)) and file.suffix == target.suffix:
            with suppress(FileNotFoundError):  # another process may have removed it
                if time() - file.stat().st_mtime > older_than:
                    file.unlink()


def _prefix(target: Path) -> str:
    return f".partial-{target.name[:100]}-"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
