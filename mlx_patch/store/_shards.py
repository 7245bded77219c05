"""The files of a store: safetensors, in which the positions of one prompt follow those of the previous prompt.

Beside its sites a shard holds `tokens` of every prompt, one after the other, and `lengths`, how many each has;
`positions`, the absolute ones that were kept, and `kept`, how many of each prompt.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from time import time_ns
from typing import BinaryIO, cast
from zlib import crc32

import mlx.core as mx
import numpy as np
from typing_extensions import override

from mlx_patch.errors import FileError
from mlx_patch.files import (
    Format,
    Header,
    Malformed,
    Stamp,
    open_checked,
    read_array,
    read_header,
    save_arrays,
    stamp_of,
    written_whole,
)
from mlx_patch.model import RunResult
from mlx_patch.sites import Site
from mlx_patch.store._index import Index, Shard, StoredSite, file_name

_FORMAT = Format("mlx_patch.ActivationStore.shard", 1)
_CHUNK = 1 << 22
_TICK_NS = 50_000_000  # longer than a tick of any kernel


class ShardFile:
    """One file of a store, checked when it is first read, and again after a change on disk.

    Args:
        folder: Of the store.
        shard: What the index says of the file.
    """

    def __init__(self, folder: Path, shard: Shard):
        self.folder, self.shard = folder, shard
        self._checked: Stamp | None = None

    def is_as_checked(self) -> bool:
        """Whether the file is unchanged since it was checked."""
        with self._open() as file:
            return stamp_of(file) == self._checked

    @contextmanager
    def reading(self, check: bool = True) -> Iterator[BinaryIO]:
        """Open the file to read it; with `check`, verify its checksum first.

        Raises:
            FileError: Its bytes are not those that were written, or the file changes while it is read.
        """
        with self._open() as file:
            stamp = stamp_of(file)
            if stamp[2] != self.shard.bytes:
                raise _damaged(self.folder, self.shard, f"has {stamp[2]} bytes instead of {self.shard.bytes}")
            if check and stamp != self._checked:
                self._refuse_other_bytes(file)
            yield file
            if stamp_of(file) != stamp:
                raise _damaged(self.folder, self.shard, "changed while it was read")
            self._checked = None
            if check and _is_settled(stamp):
                self._checked = stamp

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        try:
            with open_checked(self.folder / self.shard.file, follow=False) as file:
                yield file
        except FileError:  # raised in the block; an OSError too, but its message is complete
            raise
        except OSError as error:
            raise _damaged(self.folder, self.shard, f"cannot be read: {error.strerror}") from error
        except Malformed as error:
            raise _damaged(self.folder, self.shard, str(error)) from error

    def _refuse_other_bytes(self, file: BinaryIO) -> None:
        if _crc_of(file) != self.shard.crc32:
            raise _damaged(self.folder, self.shard, "is not what was written: its checksum differs")


def _is_settled(stamp: Stamp) -> bool:
    """Whether a later change would show: times of files move in ticks, and two changes may fall into one."""
    return time_ns() - max(stamp[3:]) > _TICK_NS


class ShardArrays(Mapping[str, mx.array]):
    """The arrays of a shard by name, each read when it is first used, whole, for any thread.

    Args:
        source: The file.
        header: Its header.
        check: Whether to verify its checksum.
    """

    def __init__(self, source: ShardFile, header: Header, check: bool):
        self._source, self._header, self._check = source, header, check
        self._arrays: dict[str, mx.array] = {}

    @override
    def __getitem__(self, name: str) -> mx.array:
        if name not in self._arrays:
            entry = self._header.entries[name]
            with self._source.reading(self._check) as file:
                self._arrays[name] = read_array(file, entry)
        return self._arrays[name]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._header.entries)

    @override
    def __len__(self) -> int:
        return len(self._header.entries)

    def description(self, name: str) -> str:
        """The dtype and the shape of an array, from the header; "nothing" if there is none."""
        entry = self._header.entries.get(name)
        if entry is None:
            return "nothing"
        return _describe(entry.shape, entry.dtype)


@dataclass(frozen=True)
class OpenShard:
    """A shard whose arrays can be read.

    Attributes:
        arrays: By name of site, each of shape `(row, *rest)`; with them `tokens`, `lengths`, `positions`, `kept`. Each
            is read when it is first used.
        first: The number of its first prompt.
    """

    arrays: Mapping[str, mx.array]
    first: int

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """How many tokens each prompt has."""
        return tuple(cast("list[int]", self.arrays["lengths"].tolist()))

    @cached_property
    def kept(self) -> tuple[int, ...]:
        """How many positions are kept of each prompt."""
        return tuple(cast("list[int]", self.arrays["kept"].tolist()))

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The row at which each prompt begins, and the one after the last."""
        return tuple(accumulate(self.kept, initial=0))

    @cached_property
    def tokens(self) -> tuple[tuple[int, ...], ...]:
        """The tokens of each prompt."""
        tokens = cast("list[int]", self.arrays["tokens"].tolist())
        bounds = accumulate(self.lengths, initial=0)
        return tuple(tuple(tokens[start:end]) for start, end in pairwise(bounds))

    @cached_property
    def positions(self) -> np.ndarray:
        """The absolute position of each row. Shape `(row,)`."""
        return np.array(self.arrays["positions"])


def write_shard(folder: Path, number: int, runs: Sequence[RunResult], sites: Sequence[StoredSite]) -> Shard:
    """Write one shard, whole or not at all. The runs lose their activations, so that memory holds each once.

    Args:
        folder: Of the store.
        number: The shard's.
        runs: The run of each prompt, in order.
        sites: The sites to write.
    """
    arrays = {stored.site: _pop_site(runs, Site.parse(stored.site)) for stored in sites}
    arrays["tokens"] = mx.concatenate([run.tokens[0] for run in runs])
    arrays["lengths"] = mx.array([run.n_positions for run in runs], dtype=mx.int32)
    arrays["positions"] = mx.array([pos for run in runs for pos in run.positions], dtype=mx.int32)
    arrays["kept"] = mx.array([len(run.positions) for run in runs], dtype=mx.int32)
    with written_whole(folder / file_name(number)) as temporary:
        save_arrays(temporary, arrays, _FORMAT.entry)
        size = temporary.stat().st_size
        checksum = crc_of(temporary)
    return Shard(file_name(number), len(runs), arrays["positions"].size, size, checksum)


def _pop_site(runs: Sequence[RunResult], site: Site) -> mx.array:
    """Take one site out of every run, as one array. Shape `(row, *rest)`."""
    rows = mx.concatenate([run.activations.pop(site)[0] for run in runs], axis=0)
    mx.eval(rows)
    return rows


def crc_of(path: Path) -> str:
    """The checksum of a file, 8 hex digits."""
    with path.open("rb") as file:
        return _crc_of(file)


def _crc_of(file: BinaryIO) -> str:
    checksum = 0
    file.seek(0)
    while chunk := file.read(_CHUNK):
        checksum = crc32(chunk, checksum)
    return f"{checksum:08x}"


def refuse_other_size(folder: Path, shard: Shard) -> None:
    """Refuse a shard that is missing, is no regular file, or has another size than when it was written.

    Raises:
        FileError: It is.
    """
    with ShardFile(folder, shard).reading(check=False):
        pass


def open_shard(source: ShardFile, index: Index, number: int, check: bool = True) -> OpenShard:
    """A shard, whose arrays are read when they are first used.

    Args:
        source: Its file.
        index: The store's.
        number: The shard's.
        check: Whether to verify the checksum, which reads every byte.
    Raises:
        FileError: A site, shape, dtype or checksum is not that of the index.
    """
    shard = index.shards[number]
    with source.reading(check) as file:
        arrays = ShardArrays(source, read_header(file), check)
    descriptions = _array_descriptions(index, shard)
    for name, description in descriptions.items():
        if arrays.description(name) != description:
            defect = f"has {arrays.description(name)} for {name!r}, but the index says {description}"
            raise _damaged(source.folder, shard, defect)
    first = sum(previous.prompts for previous in index.shards[:number])
    candidate = OpenShard(arrays, first)
    if arrays.keys() != {*descriptions, "tokens"} or not _is_consistent(candidate, shard):
        raise _damaged(source.folder, shard, "is inconsistent: its prompts do not add up")
    return candidate


def _array_descriptions(index: Index, shard: Shard) -> dict[str, str]:
    """The dtype and shape that each array of a shard must have, by name; `tokens` may be of any length."""
    descriptions = {}
    for site in index.sites:
        descriptions[site.site] = _describe((shard.rows, *site.shape), getattr(mx, site.dtype))
    descriptions["positions"] = _describe((shard.rows,), mx.int32)
    descriptions["lengths"] = _describe((shard.prompts,), mx.int32)
    descriptions["kept"] = _describe((shard.prompts,), mx.int32)
    return descriptions


def _is_consistent(open_shard: OpenShard, shard: Shard) -> bool:
    """Whether the lengths add up to the tokens, the kept counts to the rows, and positions lie in their prompts."""
    lengths = np.array(open_shard.lengths)
    counts = np.array(open_shard.kept)
    tokens = np.array(open_shard.arrays["tokens"])
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu" or (tokens < 0).any():
        return False
    if (lengths < 1).any() or (counts < 1).any():
        return False
    if lengths.sum() != tokens.size or counts.sum() != shard.rows:
        return False
    is_inside = (open_shard.positions >= 0) & (open_shard.positions < np.repeat(lengths, counts))
    return bool(is_inside.all())


def _describe(shape: tuple[int, ...], dtype: mx.Dtype) -> str:
    return f"{str(dtype).removeprefix('mlx.core.')} {tuple(shape)}"


def _damaged(folder: Path, shard: Shard, defect: str) -> FileError:
    return FileError(
        f"`path` must be a folder whose shards are whole. Got {folder}, where {shard.file} {defect}. "
        "Delete the folder, and capture again."
    )
