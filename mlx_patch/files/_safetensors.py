"""Safetensors files, read whole and checked: what is read does not depend on the file afterwards.

`mx.load` opens a file and reads each array when it is first used, in the thread that opened it. If the file has been
cut or overwritten by then, what comes is garbage without an error. So files that hold results are read here.
"""

import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import mlx.core as mx
import numpy as np

_DTYPES: dict[str, tuple[mx.Dtype, Any]] = {
    "BOOL": (mx.bool_, np.bool_),
    "U8": (mx.uint8, np.uint8),
    "U16": (mx.uint16, np.uint16),
    "U32": (mx.uint32, np.uint32),
    "U64": (mx.uint64, np.uint64),
    "I8": (mx.int8, np.int8),
    "I16": (mx.int16, np.int16),
    "I32": (mx.int32, np.int32),
    "I64": (mx.int64, np.int64),
    "F16": (mx.float16, np.float16),
    "BF16": (mx.bfloat16, np.uint16),  # numpy has no bfloat16
    "F32": (mx.float32, np.float32),
    "F64": (mx.float64, np.float64),
    "C64": (mx.complex64, np.complex64),
}
_PREFIX = 8
_LONGEST_HEADER = 100_000_000  # as the format's own reader has it
_LARGEST_DIMENSION = 2**31  # mlx counts dimensions in 32 bits
_METADATA = "__metadata__"
_FIELDS = {"dtype", "shape", "data_offsets"}

Stamp = tuple[int, int, int, int, int]
"""Device, inode, size and times of a file: another one where the file was changed or replaced."""


class Malformed(ValueError):
    """Why a file is not what it should be, as a clause: "is cut off: ..."."""


@dataclass(frozen=True)
class Entry:
    """One array of a file.

    Attributes:
        kind: The format's name of its dtype, `"BF16"`.
        shape: Its shape.
        start: Where its bytes begin in the file.
    """

    kind: str
    shape: tuple[int, ...]
    start: int

    @property
    def dtype(self) -> mx.Dtype:
        """Its dtype."""
        return _DTYPES[self.kind][0]

    @property
    def nbytes(self) -> int:
        """How many bytes it has in the file."""
        return prod(self.shape) * np.dtype(_DTYPES[self.kind][1]).itemsize


@dataclass(frozen=True)
class Header:
    """What a file says that it holds.

    Attributes:
        metadata: Texts by name.
        entries: Arrays by name.
    """

    metadata: Mapping[str, str]
    entries: Mapping[str, Entry]


@contextmanager
def open_checked(path: str | os.PathLike[str], *, follow: bool = True) -> Iterator[BinaryIO]:
    """A regular file to read. Devices and pipes, which may never end, are not waited for.

    Args:
        path: The file.
        follow: Whether it may be a symbolic link.
    Raises:
        OSError: There is no such file, or it cannot be read.
        Malformed: It is no regular file, or a link where there must be none.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    if not follow and Path(path).is_symlink():
        raise Malformed("is a symbolic link, which is not followed")
    with os.fdopen(os.open(path, flags | (0 if follow else os.O_NOFOLLOW)), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise Malformed("is no regular file")
        yield file


def stamp_of(file: BinaryIO) -> Stamp:
    """The stamp of an open file."""
    said = os.fstat(file.fileno())
    return said.st_dev, said.st_ino, said.st_size, said.st_mtime_ns, said.st_ctime_ns


def read_header(file: BinaryIO) -> Header:
    """The header of a file, in which everything was checked against everything: no byte is named twice or not at all.

    Raises:
        Malformed: It is no safetensors file, or is cut off or too long.
    """
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(_read(file, 0, _PREFIX), "little")
    if not 2 <= length <= min(_LONGEST_HEADER, size - _PREFIX):
        raise Malformed(f"is no safetensors file: its header would have {length} bytes, and the file has {size}")
    about = strict_json(_read(file, _PREFIX, length))
    if not isinstance(about, dict):
        raise Malformed("is no safetensors file: its header is no mapping")
    metadata = _texts(about.pop(_METADATA, None))
    entries = [_entry(name, said, _PREFIX + length) for name, said in about.items()]
    _refuse_gaps([(entry, end) for _, entry, end in entries], _PREFIX + length, size)
    return Header(metadata, {name: entry for name, entry, _ in entries})


def read_array(file: BinaryIO, entry: Entry) -> mx.array:
    """One array, in memory of its own and evaluated, so that any thread can use it.

    Raises:
        Malformed: The file has been cut off.
    """
    dtype, kind = _DTYPES[entry.kind]
    numbers = np.frombuffer(_read(file, entry.start, entry.nbytes), kind).reshape(entry.shape)
    array = mx.array(numbers, dtype=dtype) if dtype != mx.bfloat16 else mx.array(numbers.reshape(-1)).view(dtype)
    array = array.reshape(entry.shape)
    mx.eval(array)
    return array


def content_digest(metadata: Mapping[str, str], arrays: Mapping[str, mx.array]) -> str:
    """32 hex digits that depend on every text and every number, and on nothing else of a file."""
    whole = blake2b(digest_size=16)
    whole.update(json.dumps(sorted(metadata.items())).encode())
    for name, array in sorted(arrays.items()):
        whole.update(repr((name, str(array.dtype), array.shape)).encode())
        whole.update(np.ascontiguousarray(bits_of(array)).data)
    return whole.hexdigest()


def bits_of(array: mx.array) -> np.ndarray:
    """The numbers of an array in one row, in numpy; of bfloat16, which numpy lacks, the bits. Shape `(size,)`."""
    flat = array.reshape(-1)
    return np.asarray(flat.view(mx.uint16) if flat.dtype == mx.bfloat16 else flat)


def strict_json(text: str | bytes) -> Any:
    """What a JSON text says, in which no name comes twice and every number is one.

    Raises:
        Malformed: It is no such text.
    """
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_refuse_constant)
    except Malformed:
        raise
    except (ValueError, RecursionError) as error:
        raise Malformed(f"is damaged: {error}") from error


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) < len(pairs):
        several = next(name for n, (name, _) in enumerate(pairs) if name in dict(pairs[:n]))
        raise Malformed(f"is damaged: it names {several!r} twice")
    return names


def _refuse_constant(name: str) -> Any:
    raise Malformed(f"is damaged: {name} is no number of JSON")


def _texts(given: Any) -> dict[str, str]:
    if given is None:  # mlx writes so where there are none
        return {}
    if not isinstance(given, dict) or not all(isinstance(text, str) for text in given.values()):
        raise Malformed("is damaged: its metadata are not texts by name")
    return given


def _entry(name: str, given: Any, base: int) -> tuple[str, Entry, int]:
    """The array that a header describes, with its name and the end of its bytes in the file."""
    if not isinstance(given, dict) or given.keys() != _FIELDS:
        raise Malformed(f"is damaged: {name!r} must have dtype, shape and data_offsets")
    kind, shape, offsets = given["dtype"], given["shape"], given["data_offsets"]
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise Malformed(f"is damaged: {name!r} has the dtype {kind!r}")
    if not _are_counts(shape) or any(size >= _LARGEST_DIMENSION for size in shape):
        raise Malformed(f"is damaged: {name!r} has the shape {shape!r}")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise Malformed(f"is damaged: {name!r} has the offsets {offsets!r}")
    entry = Entry(kind, tuple(shape), base + offsets[0])
    if offsets[1] - offsets[0] != entry.nbytes:
        raise Malformed(f"is damaged: {name!r} has {offsets[1] - offsets[0]} bytes where its shape has {entry.nbytes}")
    return name, entry, base + offsets[1]


def _are_counts(given: Any) -> bool:
    return isinstance(given, list) and all(type(number) is int and number >= 0 for number in given)


def _refuse_gaps(entries: Sequence[tuple[Entry, int]], start: int, size: int) -> None:
    """Refuse arrays that overlap, leave bytes between them, or end elsewhere than the file does."""
    reached = start
    for entry, end in sorted(entries, key=lambda pair: (pair[0].start, pair[1])):
        if entry.start != reached:
            raise Malformed(f"is damaged: an array begins at byte {entry.start}, and the one before ends at {reached}")
        reached = end
    if reached != size:
        raise Malformed(f"is cut off or too long: it has {size} bytes of {reached}")


def _read(file: BinaryIO, start: int, length: int) -> bytes:
    file.seek(start)
    read = file.read(length)
    if len(read) != length:
        raise Malformed(f"is cut off: it has {start + len(read)} bytes of {start + length} or more")
    return read
