"""Atomic writes: a file is written whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_IMODE

from mlx_patch import arguments
from mlx_patch.errors import FileError
from mlx_patch.files._claims import claimed_file, remove_unclaimed

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LONGEST_NAME = 100
_LONGEST_SUFFIX = 32


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path to write to, renamed to `path` if the block succeeds and removed if it fails.

    Where `path` is a symbolic link, the file that it leads to is replaced. A file that is replaced hands its mode on.
    File and folder are synced, so that a machine that stops leaves the old file or the new one. What killed writers of
    the same file left behind is removed.

    Args:
        path: The file.
    Raises:
        FileError: The folder is not there or cannot be written to, `path` is itself a folder, or the disk is full: what
            stood there is as it was.
    """
    target = Path(os.path.realpath(arguments.path("path", path)))
    if target.is_symlink():
        raise FileError(f"`path` must be a file's name. Got {path}: a link that leads to itself. Choose another name.")
    if target.is_dir():
        raise FileError(f"`path` must be a file's name. Got {path}, which is a directory. Choose another name.")
    remove_leftovers(target)
    try:
        with claimed_file(target.parent, prefix_of(target), _suffix_of(target)) as (temporary, descriptor):
            yield temporary
            if target.exists():
                os.fchmod(descriptor, S_IMODE(target.stat().st_mode))
            _sync(temporary)
            temporary.replace(target)
            _sync(target.parent)
    except FileError:
        raise
    except OSError as error:
        where, remedy = "in a folder that can be written to", "Choose another folder."
        if error.errno in _FULL:
            where, remedy = "on a disk with room for it", "Make room, or choose another folder."
        raise FileError(f"`path` must be {where}. Got {path}: {error.strerror or error}. {remedy}") from error


def text_written(text: str, path: str | os.PathLike[str] | None) -> str:
    """A text, after it is written to `path`, if one is given.

    Raises:
        FileError: As for `written_whole`.
    """
    if path is not None:
        with written_whole(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return text


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove the temporary files that killed processes left beside `path`; those being written stay.

    Args:
        path: As for `written_whole`.
    """
    target = Path(path)
    remove_unclaimed(target.parent, prefix_of(target))


def prefix_of(target: Path) -> str:
    """How the name of a temporary file for `target` begins. A name may have 255 bytes, however many letters that is."""
    name = os.fsencode(target.name)[:_LONGEST_NAME].decode("utf-8", "ignore")
    return f".partial-{name}-"


def _suffix_of(target: Path) -> str:
    """The end of the name, which libraries read; none where it would be too long to be one."""
    return target.suffix if len(os.fsencode(target.suffix)) <= _LONGEST_SUFFIX else ""


def _sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
