"""The header of a `.npy` array, read as a text of one form. numpy's own reader evaluates it as Python."""

import re
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np

from mlx_patch.files._opening import Malformed

_MAGIC = b"\x93NUMPY"
_LENGTH_BYTES = {1: 2, 2: 4, 3: 4}
"""How many bytes say how long the header is, by the version of the format."""

_FIELDS = re.compile(
    r"\{'descr': '([<>|=]?[A-Za-z]\d{0,4}(?:\[\w+\])?)', 'fortran_order': (True|False), "
    r"'shape': \(((?:\d{1,19}, )*(?:\d{1,19},?)?)\), ?\} *\n"
)
_NUMBER_KINDS = "biuf"
_MOST_AXES = 32

LARGEST_NPY_HEADER = 10_000
"""Bytes that a header may have."""


@dataclass(frozen=True)
class ArrayHeader:
    """The header of an array.

    Attributes:
        dtype: Of its numbers.
        shape: Its shape.
        order: "C" or "F": which axis is contiguous.
        length: The bytes of the header itself, behind which the numbers begin.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    length: int

    @property
    def nbytes(self) -> int:
        """Its number of bytes in the file, with the header."""
        return self.length + prod(self.shape) * self.dtype.itemsize


def npy_header(content: bytes) -> ArrayHeader:
    """The header of an array of numbers.

    Args:
        content: Its first `LARGEST_NPY_HEADER` bytes, or all.
    Raises:
        Malformed: It has none, or is no array of numbers.
    """
    start = len(_MAGIC) + 2
    width = _LENGTH_BYTES.get(content[len(_MAGIC)] if content.startswith(_MAGIC) and len(content) > start else 0, 0)
    end = start + width + int.from_bytes(content[start : start + width], "little")
    if not width or not start + width < end <= min(len(content), LARGEST_NPY_HEADER):
        raise Malformed("is no numpy array, or has a damaged header")
    fields = _FIELDS.fullmatch(content[start + width : end].decode("latin-1"))
    if fields is None:
        raise Malformed(f"has a header that numpy does not write: {content[start + width : end][:80]!r}")
    dtype_name, fortran_order, sizes = fields.groups()
    shape = tuple(int(size) for size in sizes.split(",") if size.strip())
    if len(shape) > _MOST_AXES:
        raise Malformed(f"has {len(shape)} axes")
    order: Literal["C", "F"] = "C"
    if fortran_order == "True":
        order = "F"
    return ArrayHeader(_checked_dtype(dtype_name), shape, order, end)


def array_of_npy(content: bytes) -> np.ndarray:
    """The array that all of the bytes are, read-only.

    Raises:
        Malformed: They are none, or more or fewer than its shape needs.
    """
    header = npy_header(content)
    if len(content) != header.nbytes:
        raise Malformed(f"has {len(content)} bytes, but its shape {header.shape} needs {header.nbytes}")
    numbers = np.frombuffer(content, header.dtype, prod(header.shape), header.length)
    return numbers.reshape(header.shape, order=header.order)


def _checked_dtype(name: str) -> np.dtype:
    """The dtype of a name.

    Raises:
        Malformed: It is none of numbers in this machine's order of bytes.
    """
    if "O" in name:
        raise Malformed("holds pickled objects, which may run any code and are never read")
    try:
        dtype = np.dtype(name)
    except (TypeError, ValueError) as error:
        raise Malformed(f"has the dtype {name!r}") from error
    if dtype.kind not in _NUMBER_KINDS or not dtype.isnative:
        raise Malformed(f"has numbers of {dtype}")
    return dtype
