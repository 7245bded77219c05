"""Zips of which nothing is believed: the members that a caller knows, no larger than their file can hold."""

import os
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from mlx_patch.files._opening import Malformed, clause_of

_ENCRYPTED = 0x1
_LARGEST_NAME = 500

_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,  # with NotImplementedError, for methods that zipfile does not have
    OverflowError,
    MemoryError,
)


@contextmanager
def opened_zip(file: BinaryIO, methods: Collection[int] = (zipfile.ZIP_STORED,)) -> Iterator[zipfile.ZipFile]:
    """A context with a zip whose members have been checked: different names, a known method, true sizes.

    Args:
        file: The file.
        methods: How members may be compressed; by default not at all, so that none is larger than its file.
    Raises:
        Malformed: It is no such zip, or reading it in the block fails.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            _refuse_members(archive, os.fstat(file.fileno()).st_size, methods)
            yield archive
    except Malformed:
        raise
    except _BROKEN as error:
        raise Malformed(f"is damaged or of another kind: {clause_of(error)}") from error


def _refuse_members(archive: zipfile.ZipFile, size: int, methods: Collection[int]) -> None:
    """Refuse members that share a name, are packed in another way, or are larger than the file, together.

    Raises:
        Malformed: There are such.
    """
    names = archive.namelist()
    if len(set(names)) < len(names):
        raise Malformed("is damaged: two members have one name")
    for info in archive.infolist():
        name = info.filename[:_LARGEST_NAME]
        if info.compress_type not in methods or info.flag_bits & _ENCRYPTED:
            raise Malformed(f"has the member {name!r} compressed or encrypted, in a way that is not read")
        if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
            raise Malformed(f"is damaged: {name!r} has two sizes")
    if sum(info.compress_size for info in archive.infolist()) > size:
        raise Malformed(f"is damaged: its members are larger than its {size} bytes")
