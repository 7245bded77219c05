"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

from mlx_patch.errors import FileError


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write to, which takes the name `path` when the block ends well, and is removed when it does not.

    Raises:
        FileError: The folder is not there or cannot be written to, or `path` is itself a folder.
    """
    target = Path(path)
    if target.is_dir():
        raise FileError(f"`path` must be a file's name. Got {target}: Is a directory. Choose another name.")
    try:
        with NamedTemporaryFile(dir=target.parent, prefix=".partial-", suffix=target.suffix, delete=False) as file:
            beside = Path(file.name)
    except OSError as error:
        raise FileError(
            f"`path` must be in a folder that can be written to. Got {target}: {error.strerror}. Choose another folder."
        ) from error
    try:
        yield beside
        beside.chmod(0o666 & ~_umask())
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
