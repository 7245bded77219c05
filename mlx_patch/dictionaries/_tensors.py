"""The arrays of a dictionary's file by name: of a safetensors file, or of a zip of numpy arrays."""

import zipfile
from collections.abc import Mapping
from hashlib import blake2b
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from mlx_patch.dictionaries._stored import InMemory, OnDisk, Stored
from mlx_patch.errors import FileError
from mlx_patch.files import Malformed, open_checked, read_header, stamp_of

_KINDS = {"F16": np.float16, "F32": np.float32, "F64": np.float64, "BF16": np.uint16, "I32": np.int32, "I64": np.int64}
_UNREADABLE = (Malformed, zipfile.BadZipFile, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError)
_LARGEST_COMPRESSED = 2**31
_ORDERS: tuple[Literal["C", "F"], ...] = ("C", "F")
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
    except _UNREADABLE as error:
        raise FileError(
            f"`folder` must hold a whole {path.name}. Got {path}, which {error}. Fetch it again."
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
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name in tensors or name == info.filename:
                raise Malformed(f"has {info.filename!r}, which is not one array of its own")
            with archive.open(info) as member:
                shape, is_fortran, dtype = _npy_header(member, name)
                length = member.tell()
                if length + prod(shape) * dtype.itemsize != info.file_size:
                    raise Malformed(f"is damaged: {name!r} has not the bytes that its shape needs")
                if info.compress_type != zipfile.ZIP_STORED:
                    tensors[name] = InMemory(_unpacked(member, name, shape, dtype, is_fortran))
                    continue
            start = _start_of(file, info) + length
            tensors[name] = OnDisk(path, stamp, start, dtype, shape, order=_ORDERS[is_fortran])
    return tensors


def _npy_header(member: Any, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(member)
    else:
        shape, is_fortran, dtype = np.lib.format.read_array_header_2_0(member)
    if dtype.hasobject:
        raise Malformed(f"holds pickled objects in {name!r}, which may run any code and are never read")
    if dtype.kind not in "fi" or not dtype.isnative or dtype.itemsize > 8:
        raise Malformed(f"has numbers of {dtype} in {name!r}, which is no dtype of weights")
    return shape, is_fortran, dtype


def _unpacked(member: Any, name: str, shape: tuple[int, ...], dtype: np.dtype, is_fortran: bool) -> np.ndarray:
    size = prod(shape) * dtype.itemsize
    if size > _LARGEST_COMPRESSED:
        raise Malformed(
            f"compresses {size} bytes of {name!r}, of which no part can be read by itself; save it anew with np.savez"
        )
    content = member.read(size)
    if len(content) != size or member.read(1):
        raise Malformed(f"is damaged: {name!r} has not the bytes that its shape needs")
    return np.frombuffer(content, dtype).reshape(shape, order=_ORDERS[is_fortran])


def _start_of(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: behind its local header, whose extra field may differ from the directory's."""
    file.seek(info.header_offset)
    header = file.read(30)
    if len(header) != 30 or header[:4] != b"PK\x03\x04":
        raise Malformed("is damaged: a member has no header")
    name_length, extra_length = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    return info.header_offset + 30 + name_length + extra_length
