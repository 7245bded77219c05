"""A checked reader of safetensors files, whose arrays no longer depend on the file.

`mx.load` opens a file and reads each array when it is first used, in the thread that opened it. If the file has been
cut or overwritten by then, the array is garbage, without an error. So files that hold results are read here.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from math import prod
from typing import Any, BinaryIO

import mlx.core as mx
import numpy as np

from mlx_patch.files._json import strict_json
from mlx_patch.files._opening import Malformed, read_at

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
_MOST_AXES = 32  # as in every numpy
_METADATA = "__metadata__"
_FIELDS = {"dtype", "shape", "data_offsets"}

Stamp = tuple[int, int, int, int, int]
"""Device, inode, size and times of a file, which differ once the file was changed or replaced."""


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
        """Its number of bytes in the file."""
        storage_type = _DTYPES[self.kind][1]
        return prod(self.shape) * np.dtype(storage_type).itemsize

    @property
    def end(self) -> int:
        """Where its bytes end in the file."""
        return self.start + self.nbytes


@dataclass(frozen=True)
class Header:
    """The contents of a file, as its header describes them.

    Attributes:
        metadata: Texts by name.
        entries: Arrays by name.
    """

    metadata: Mapping[str, str]
    entries: Mapping[str, Entry]


def stamp_of(file: BinaryIO) -> Stamp:
    """The stamp of an open file."""
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def read_header(file: BinaryIO) -> Header:
    """The header of a file, checked: its arrays have their shapes' sizes, and cover every byte exactly once.

    Raises:
        Malformed: It is no safetensors file, or is cut off or too long.
    """
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(read_at(file, 0, _PREFIX), "little")
    if not 2 <= length <= min(_LONGEST_HEADER, size - _PREFIX):
        raise Malformed(f"is not a safetensors file: its header would have {length} bytes, but the file has {size}")
    about = strict_json(read_at(file, _PREFIX, length))
    if not isinstance(about, dict):
        raise Malformed("is not a safetensors file: its header is not a mapping")
    metadata = _checked_metadata(about.pop(_METADATA, None))
    base = _PREFIX + length
    entries = {name: _checked_entry(name, description, base) for name, description in about.items()}
    _refuse_gaps(entries.values(), base, size)
    return Header(metadata, entries)


def read_array(file: BinaryIO, entry: Entry) -> mx.array:
    """One array in its own memory, evaluated, so that any thread can use it.

    Raises:
        Malformed: The file has been cut off.
    """
    dtype, storage_type = _DTYPES[entry.kind]
    numbers = np.frombuffer(read_at(file, entry.start, entry.nbytes), storage_type)
    if dtype == mx.bfloat16:
        array = mx.array(numbers).view(dtype)
    else:
        array = mx.array(numbers, dtype=dtype)
    array = array.reshape(entry.shape)
    mx.eval(array)
    return array


def content_digest(metadata: Mapping[str, str], arrays: Mapping[str, mx.array]) -> str:
    """32 hex digits that depend on every text and every number, and on nothing else of a file."""
    digest = blake2b(digest_size=16)
    digest.update(json.dumps(sorted(metadata.items())).encode())
    for name, array in sorted(arrays.items()):
        digest.update(repr((name, str(array.dtype), array.shape)).encode())
        digest.update(np.ascontiguousarray(bits_of(array)).data)
    return digest.hexdigest()


def bits_of(array: mx.array) -> np.ndarray:
    """The numbers of an array as a flat numpy array; for bfloat16, which numpy lacks, the bits. Shape `(size,)`."""
    flat = array.reshape(-1)
    if flat.dtype == mx.bfloat16:
        flat = flat.view(mx.uint16)
    return np.asarray(flat)


def _checked_metadata(metadata: Any) -> dict[str, str]:
    if metadata is None:  # mlx writes null if there are none
        return {}
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise Malformed("is damaged: its metadata does not map names to text")
    return metadata


def _checked_entry(name: str, description: Any, base: int) -> Entry:
    """The entry of an array that a header describes, with offsets from `base`."""
    if not isinstance(description, dict) or description.keys() != _FIELDS:
        raise Malformed(f"is damaged: {name!r} must have dtype, shape and data_offsets")
    kind, shape, offsets = description["dtype"], description["shape"], description["data_offsets"]
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise Malformed(f"is damaged: {name!r} has the dtype {kind!r}")
    if not _are_counts(shape) or len(shape) > _MOST_AXES or any(size >= _LARGEST_DIMENSION for size in shape):
        raise Malformed(f"is damaged: {name!r} has the shape {shape!r}")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise Malformed(f"is damaged: {name!r} has the offsets {offsets!r}")
    start, end = offsets
    entry = Entry(kind, tuple(shape), base + start)
    if end - start != entry.nbytes:
        raise Malformed(f"is damaged: {name!r} has {end - start} bytes, but its shape needs {entry.nbytes}")
    return entry


def _are_counts(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(number) is int and number >= 0 for number in numbers)


def _refuse_gaps(entries: Iterable[Entry], start: int, size: int) -> None:
    """Refuse arrays that overlap, leave bytes between them, or end elsewhere than the file does."""
    previous_end = start
    for entry in sorted(entries, key=lambda entry: (entry.start, entry.end)):
        if entry.start != previous_end:
            raise Malformed(
                f"is damaged: an array begins at byte {entry.start}, but the one before ends at {previous_end}"
            )
        previous_end = entry.end
    if previous_end != size:
        raise Malformed(f"is cut off or too long: it has {size} bytes instead of {previous_end}")
