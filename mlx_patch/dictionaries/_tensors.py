"""The arrays of a dictionary's file by name: of a safetensors file, or of a zip of numpy arrays."""

import zipfile
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mlx_patch.dictionaries._stored import InMemory, OnDisk, Stored
from mlx_patch.errors import FileError
from mlx_patch.files import (
    LARGEST_NPY_HEADER,
    ArrayHeader,
    Malformed,
    clause_of,
    npy_header,
    open_checked,
    opened_zip,
    read_header,
    stamp_of,
)

_KINDS = {"F16": np.float16, "F32": np.float32, "F64": np.float64, "BF16": np.uint16, "I32": np.int32, "I64": np.int64}
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_LARGEST_COMPRESSED = 2**31
_LARGEST_ITEM = 8
_MOST_COMPRESSED = 100
"""How many times smaller an array of more than `_ALWAYS_UNPACKED` bytes may be in its file. A bomb is 1000 times."""

_ALWAYS_UNPACKED = 2**24
_SAMPLES = 256
_SAMPLE_BYTES = 4096


def read_tensors(path: Path) -> dict[str, Stored]:
    """The arrays of a file, by name. Their numbers stay in the file, unless it compresses them.

    Raises:
        FileError: It is no such file, is damaged, or holds pickled objects.
    """
    try:
        with open_checked(path) as file:
            if path.suffix == ".npz":
                return _of_zip(path, file)
            return _of_safetensors(path, file)
    except Malformed as error:
        raise FileError(
            f"`folder` must hold a whole {path.name}. Got {path}, which {clause_of(error)}. Fetch it again."
        ) from error
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"`folder` must hold {path.name}. Got {path}: {error.strerror}.") from error


def identity_of(path: Path, settings: Mapping[str, Any]) -> str:
    """32 hex digits of the settings, of the file's size and of samples spread over it; the same for a copy of it."""
    digest = blake2b(repr(sorted(settings.items(), key=lambda item: item[0])).encode(), digest_size=16)
    size = path.stat().st_size
    digest.update(size.to_bytes(8, "little"))
    with path.open("rb") as file:
        for number in range(_SAMPLES):
            file.seek(number * max(0, size - _SAMPLE_BYTES) // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _of_safetensors(path: Path, file: BinaryIO) -> dict[str, Stored]:
    header, stamp = read_header(file), stamp_of(file)
    tensors: dict[str, Stored] = {}
    for name, entry in header.entries.items():
        if entry.kind not in _KINDS:
            raise Malformed(f"has numbers of {entry.kind} in {name!r}, which is no dtype of weights")
        dtype = np.dtype(_KINDS[entry.kind])
        tensors[name] = OnDisk(path, stamp, entry.start, dtype, entry.shape, entry.kind == "BF16")
    return tensors


def _of_zip(path: Path, file: BinaryIO) -> dict[str, Stored]:
    """The arrays of a zip. Those that are stored as they are stay in the file."""
    stamp = stamp_of(file)
    tensors: dict[str, Stored] = {}
    with opened_zip(file, _METHODS) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name == info.filename:
                raise Malformed(f"has {name!r}, which is not one array")
            header = _header_of(archive, info, name)
            if info.compress_type == zipfile.ZIP_STORED:
                start = _start_of(file, info) + header.length
                tensors[name] = OnDisk(path, stamp, start, header.dtype, header.shape, order=header.order)
            else:
                numbers = _unpacked(archive, info, name, header)
                tensors[name] = InMemory(numbers.reshape(header.shape, order=header.order))
    return tensors


def _header_of(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> ArrayHeader:
    """The header of an array, whose member has the size that it says.

    Raises:
        Malformed: It is no array of numbers, or has another size.
    """
    try:
        with archive.open(info) as member:
            header = npy_header(member.read(LARGEST_NPY_HEADER))
    except Malformed as error:
        raise Malformed(f"{error}, in {name!r}") from error
    if header.dtype.kind not in "fi" or header.dtype.itemsize > _LARGEST_ITEM:
        raise Malformed(f"has numbers of {header.dtype} in {name!r}, which is no dtype of weights")
    if header.nbytes != info.file_size:
        raise Malformed(f"is damaged: {name!r} has not the bytes that its shape needs")
    return header


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, header: ArrayHeader) -> np.ndarray:
    """The numbers of a compressed array. Shape `(size,)`.

    Raises:
        Malformed: It is too large to be unpacked, or larger than weights are that were packed so small.
    """
    if info.file_size > min(_LARGEST_COMPRESSED, _ALWAYS_UNPACKED + _MOST_COMPRESSED * info.compress_size):
        raise Malformed(
            f"compresses {info.file_size} bytes of {name!r} into {info.compress_size}, of which no part can be read by "
            "itself; save it anew with np.savez"
        )
    with archive.open(info) as member:
        content = member.read(info.file_size)
    if len(content) != info.file_size:
        raise Malformed(f"is damaged: {name!r} has not the bytes that its shape needs")
    return np.frombuffer(content, header.dtype, offset=header.length)


def _start_of(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: behind its local header, whose extra field may differ from the directory's."""
    file.seek(info.header_offset)
    header = file.read(30)
    if len(header) != 30 or header[:4] != b"PK\x03\x04":
        raise Malformed("is damaged: a member has no header")
    name_length, extra_length = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    return info.header_offset + 30 + name_length + extra_length
