"""Arrays that stay in their file: what is needed of one is read when it is needed.

`mx.load` reads whole arrays. Of a dictionary of 65,536 features an edit needs some rows, so they are read here. A file
that was changed since it was opened is refused: its numbers would belong to another dictionary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import mlx.core as mx
import numpy as np

from mlx_patch.errors import FileError
from mlx_patch.files import Stamp, open_checked, stamp_of


@dataclass(frozen=True)
class OnDisk:
    """An array at a place of a file.

    Attributes:
        path: The file.
        stamp: What the file was when its header was read.
        start: Where the numbers begin, in bytes.
        dtype: How a number is stored.
        shape: The shape of the array.
        is_bfloat16: Whether the numbers are the bits of bfloat16.
        order: "C" or "F": which axis is contiguous.
    """

    path: Path
    stamp: Stamp
    start: int
    dtype: np.dtype
    shape: tuple[int, ...]
    is_bfloat16: bool = False
    order: Literal["C", "F"] = "C"

    @contextmanager
    def opened(self) -> Iterator[np.ndarray]:
        """A context with the numbers, which are mapped for its duration.

        Raises:
            FileError: The file is gone, or has changed.
        """
        try:
            with open_checked(self.path) as file:
                if stamp_of(file) != self.stamp:
                    raise FileError(
                        f"{self.path} has changed since the dictionary was loaded from it. Load the dictionary again."
                    )
                yield np.memmap(file, self.dtype, mode="r", offset=self.start, shape=self.shape, order=self.order)
        except (OSError, ValueError) as error:
            if isinstance(error, FileError):
                raise
            raise FileError(f"{self.path} cannot be read any more: {error}. Load the dictionary again.") from error


@dataclass(frozen=True)
class InMemory:
    """An array that cannot be read in parts, because its file compresses it.

    Attributes:
        numbers: The array.
        is_bfloat16: Whether the numbers are the bits of bfloat16.
    """

    numbers: np.ndarray
    is_bfloat16: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.numbers.shape

    @property
    def dtype(self) -> np.dtype:
        """How a number is stored."""
        return self.numbers.dtype

    @contextmanager
    def opened(self) -> Iterator[np.ndarray]:
        """A context with the numbers."""
        yield self.numbers


Stored = OnDisk | InMemory
"""An array of a dictionary's file."""


def as_mlx(numbers: np.ndarray, is_bfloat16: bool) -> mx.array:
    """A copy of numbers as an mx array: in their own dtype, float64 as float32."""
    numbers = np.ascontiguousarray(numbers)
    if is_bfloat16:
        return mx.array(numbers).view(mx.bfloat16)
    if numbers.dtype == np.float64:
        numbers = numbers.astype(np.float32)
    return mx.array(numbers)


def read_whole(stored: Stored) -> mx.array:
    """A whole array in float32."""
    with stored.opened() as numbers:
        return as_mlx(numbers, stored.is_bfloat16).astype(mx.float32)


IN_MEMORY = 2**28
"""Bytes of a matrix up to which it is held in memory once all of it was used."""

_AT_ONCE = 2**25
_MAPPED_ROWS = 512


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """A matrix with a row for each feature, whichever way its file has it. Shape `(feature, width)`.

    Attributes:
        stored: The matrix in its file.
        by_column: Whether a feature is a column there.
    """

    stored: Stored
    by_column: bool = False
    _blocks: list[mx.array] = field(default_factory=list, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """The number of features, and the width."""
        first, second = self.stored.shape
        if self.by_column:
            return second, first
        return first, second

    @property
    def nbytes(self) -> int:
        """The bytes of the whole matrix, as it is read."""
        n_features, width = self.shape
        return n_features * width * min(4, self.stored.dtype.itemsize)

    def rows(self, features: Sequence[int] | slice) -> mx.array:
        """The rows of some features, in the dtype of the file. Shape `(feature, width)`."""
        chosen = features
        if not isinstance(chosen, slice):
            chosen = list(chosen)
        if self.by_column:
            return as_mlx(_columns(self.stored, chosen), self.stored.is_bfloat16).T
        with self.stored.opened() as numbers:
            return as_mlx(numbers[chosen], self.stored.is_bfloat16)

    def blocks(self, keep: bool = False) -> Iterator[mx.array]:
        """All rows, a block at a time, in order. A small matrix is held in memory from then on; so is one to `keep`."""
        if self._blocks:
            yield from self._blocks
            return
        keep = keep or self.nbytes <= IN_MEMORY
        n_features, width = self.shape
        size = max(1, _AT_ONCE // (4 * width))
        read_blocks = []
        for begin in range(0, n_features, size):
            block = self.rows(slice(begin, min(begin + size, n_features)))
            if keep:
                read_blocks.append(block)
            yield block
        self._blocks.extend(read_blocks)

    def norms(self, features: Sequence[int] | None = None) -> mx.array:
        """The length of each row, in float32. Shape `(feature,)`."""
        if features is not None:
            return _lengths(self.rows(features))
        lengths = []
        for block in self.blocks():
            lengths.append(_lengths(block))
            mx.eval(lengths[-1])  # so that a block can be freed before the next is read
        return mx.concatenate(lengths)


def _columns(stored: Stored, chosen: slice | list[int]) -> np.ndarray:
    """Some columns of a matrix. Of a mapped one, some rows are mapped at a time: their pages count as memory."""
    height, width = stored.shape
    columns = np.empty((height, len(np.arange(width)[chosen])), stored.dtype)
    for begin in range(0, height, _MAPPED_ROWS):
        with stored.opened() as numbers:
            columns[begin : begin + _MAPPED_ROWS] = numbers[begin : begin + _MAPPED_ROWS, chosen]
    return columns


def _lengths(rows: mx.array) -> mx.array:
    rows = rows.astype(mx.float32)
    return mx.sqrt(mx.sum(rows * rows, axis=-1))
