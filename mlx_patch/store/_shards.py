"""The files of a store: safetensors, in which the positions of one prompt follow those of the one before.

What a shard holds beside its sites: `tokens` of every prompt, one after the other, and `lengths`, how many each has;
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
from mlx_patch.files import Header, Malformed, Stamp, open_checked, read_array, read_header, stamp_of, written_whole
from mlx_patch.model import RunResult
from mlx_patch.sites import Site
from mlx_patch.store._index import Index, Shard, StoredSite, file_name

_FORMAT = "mlx_patch.ActivationStore.shard/1"
_CHUNK = 1 << 22
_TICK_NS = 50_000_000  # longer than a tick of any kernel


class ShardFile:
    """One file of a store, which is checked when it is first read, and again when it has changed on the disk since.

    Args:
        folder: Of the store.
        shard: What the index says of the file.
    """

    def __init__(self, folder: Path, shard: Shard):
        self.folder, self.shard = folder, shard
        self._checked: Stamp | None = None

    def is_as_checked(self) -> bool:
        """Whether nothing happened to the file since it was checked."""
        with self._opened() as file:
            return stamp_of(file) == self._checked

    @contextmanager
    def reading(self, check: bool = True) -> Iterator[BinaryIO]:
        """The file, whose bytes are those that were written; without `check` that is not seen to.

        Raises:
            FileError: They are not, or the file changes while it is read.
        """
        with self._opened() as file:
            stamp = stamp_of(file)
            if stamp[2] != self.shard.bytes:
                raise _damaged(self.folder, self.shard, f"has {stamp[2]} bytes of {self.shard.bytes}")
            if check and stamp != self._checked:
                self._refuse_other_bytes(file)
            yield file
            if stamp_of(file) != stamp:
                raise _damaged(self.folder, self.shard, "changed while it was read")
            self._checked = stamp if check and _is_settled(stamp) else None

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        try:
            with open_checked(self.folder / self.shard.file, follow=False) as file:
                yield file
        except FileError:  # which is an OSError, and says all there is to say
            raise
        except OSError as error:
            raise _damaged(self.folder, self.shard, f"cannot be read: {error.strerror}") from error
        except Malformed as error:
            raise _damaged(self.folder, self.shard, str(error)) from error

    def _refuse_other_bytes(self, file: BinaryIO) -> None:
        if _crc_of(file) != self.shard.crc32:
            raise _damaged(self.folder, self.shard, "is not what was written: its checksum differs")


def _is_settled(stamp: Stamp) -> bool:
    """Whether a change from now on would show: times of files move in ticks, and two changes may fall into one."""
    return time_ns() - max(stamp[3:]) > _TICK_NS


class ShardArrays(Mapping[str, mx.array]):
    """The arrays of a shard by name, each read when it is first used, whole, for any thread.

    Args:
        source: The file.
        header: What it says that it holds.
        check: Whether to see that its bytes are those that were written.
    """

    def __init__(self, source: ShardFile, header: Header, check: bool):
        self._source, self._header, self._check = source, header, check
        self._read: dict[str, mx.array] = {}

    @override
    def __getitem__(self, name: str) -> mx.array:
        if name not in self._read:
            entry = self._header.entries[name]
            with self._source.reading(self._check) as file:
                self._read[name] = read_array(file, entry)
        return self._read[name]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._header.entries)

    @override
    def __len__(self) -> int:
        return len(self._header.entries)

    def said(self, name: str) -> str:
        """The dtype and the shape that the header names."""
        entry = self._header.entries.get(name)
        return "nothing" if entry is None else _said(entry.shape, entry.dtype)


@dataclass(frozen=True)
class OpenShard:
    """A shard that is read.

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
        all_, ends = cast("list[int]", self.arrays["tokens"].tolist()), tuple(accumulate(self.lengths, initial=0))
        return tuple(tuple(all_[a:b]) for a, b in pairwise(ends))

    @cached_property
    def positions(self) -> np.ndarray:
        """The absolute position of each row. Shape `(row,)`."""
        return np.array(self.arrays["positions"])


def write_shard(folder: Path, number: int, ran: Sequence[RunResult], sites: Sequence[StoredSite]) -> Shard:
    """Write one shard, whole or not at all. What the runs kept is taken out of them on the way.

    Args:
        folder: Of the store.
        number: The shard's.
        ran: The run of each prompt, in order.
        sites: What to write of them.
    """
    arrays = {held.site: _joined(ran, Site.parse(held.site)) for held in sites}
    arrays["tokens"] = mx.concatenate([one.tokens[0] for one in ran])
    arrays["lengths"] = mx.array([one.n_positions for one in ran], dtype=mx.int32)
    arrays["positions"] = mx.array([p for one in ran for p in one.positions], dtype=mx.int32)
    arrays["kept"] = mx.array([len(one.positions) for one in ran], dtype=mx.int32)
    with written_whole(folder / file_name(number)) as beside:
        mx.save_safetensors(str(beside), arrays, {"format": _FORMAT})
        size, check = beside.stat().st_size, crc_of(beside)
    return Shard(file_name(number), len(ran), arrays["positions"].size, size, check)


def _joined(ran: Sequence[RunResult], site: Site) -> mx.array:
    """One site of every prompt, as one array. Shape `(row, *rest)`."""
    joined = mx.concatenate([one.activations.pop(site)[0] for one in ran], axis=0)
    mx.eval(joined)
    return joined


def crc_of(path: Path) -> str:
    """The checksum of a file, 8 hex digits."""
    with path.open("rb") as file:
        return _crc_of(file)


def _crc_of(file: BinaryIO) -> str:
    check = 0
    file.seek(0)
    while chunk := file.read(_CHUNK):
        check = crc32(chunk, check)
    return f"{check:08x}"


def refuse_other_size(folder: Path, shard: Shard) -> None:
    """Refuse a shard that is gone, is no file of its own, or has another size than when it was written.

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
        check: Whether to see that its bytes are those that were written, which reads all of them.
    Raises:
        FileError: It is not what the index says: a site, a shape, a dtype or a checksum.
    """
    shard = index.shards[number]
    with source.reading(check) as file:
        arrays = ShardArrays(source, read_header(file), check)
    wanted = _wanted(index, shard)
    for name, said in wanted.items():
        if arrays.said(name) != said:
            raise _damaged(source.folder, shard, f"has {arrays.said(name)} for {name!r}, and the index {said}")
    opened_ = OpenShard(arrays, sum(before.prompts for before in index.shards[:number]))
    if arrays.keys() != {*wanted, "tokens"} or not _adds_up(opened_, shard):
        raise _damaged(source.folder, shard, "does not fit: its prompts do not add up")
    return opened_


def _wanted(index: Index, shard: Shard) -> dict[str, str]:
    """The dtype and shape of each array, by name."""
    sites = {held.site: _said((shard.rows, *held.shape), getattr(mx, held.dtype)) for held in index.sites}
    counts = {"positions": shard.rows, "lengths": shard.prompts, "kept": shard.prompts}
    return {**sites, **{name: _said((size,), mx.int32) for name, size in counts.items()}}


def _adds_up(shard: OpenShard, said: Shard) -> bool:
    """Whether the prompts of a shard have the tokens and the rows that are there, and rows are of their prompts."""
    lengths, kept, tokens = np.array(shard.lengths), np.array(shard.kept), np.array(shard.arrays["tokens"])
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu" or (lengths < 1).any() or (kept < 1).any():
        return False
    if lengths.sum() != tokens.size or kept.sum() != said.rows or (tokens < 0).any():
        return False
    return bool(((shard.positions >= 0) & (shard.positions < np.repeat(lengths, kept))).all())


def _said(shape: tuple[int, ...], dtype: mx.Dtype) -> str:
    return f"{str(dtype).removeprefix('mlx.core.')} {tuple(shape)}"


def _damaged(folder: Path, shard: Shard, why: str) -> FileError:
    return FileError(
        f"`path` must be a folder whose shards are whole. Got {folder}, where {shard.file} {why}. "
        "Delete the folder, and capture again."
    )
