"""Files opened to read: regular ones only, whose defects are clauses of one error."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from mlx_patch import arguments

_LONGEST_CLAUSE = 400


class Malformed(ValueError):
    """A defect of a file, as a clause: "is cut off: ..."."""


@contextmanager
def open_checked(path: str | os.PathLike[str], *, follow: bool = True) -> Iterator[BinaryIO]:
    """Open a regular file to read. Devices and pipes, which may never end, are refused.

    Args:
        path: The file.
        follow: Whether it may be a symbolic link.
    Raises:
        OSError: There is no such file, or it cannot be read.
        Malformed: It is no regular file, or a link where there must be none.
    """
    path = arguments.path("path", path)
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    if not follow:
        flags |= os.O_NOFOLLOW
        if path.is_symlink():
            raise Malformed("is a symbolic link, which is not followed")
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)  # not by fdopen, which fails for a folder and leaves it open
        raise Malformed("is not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        yield file


def read_at(file: BinaryIO, start: int, length: int) -> bytes:
    """So many bytes of a file from a place on.

    Raises:
        Malformed: The file has been cut off, or they do not fit into memory.
    """
    try:
        file.seek(start)
        content = file.read(length)
    except (MemoryError, OverflowError) as error:
        raise Malformed(f"has {length} bytes in one piece, which do not fit into memory") from error
    if len(content) != length:
        raise Malformed(f"is cut off: it has {start + len(content)} bytes of {start + length} or more")
    return content


def clause_of(reason: object) -> str:
    """What an error, or another reason, says: on one line, with its middle cut out if it is long.

    Example:
        >>> clause_of(ValueError("is damaged:\\n at byte 3"))
        'is damaged: at byte 3'
    """
    text = " ".join(map(str.strip, str(reason).splitlines()))
    if len(text) <= _LONGEST_CLAUSE:
        return text
    half = _LONGEST_CLAUSE // 2
    return f"{text[:half]} ... {text[-half:]}"
