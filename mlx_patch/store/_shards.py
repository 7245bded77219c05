"""The files of a store: safetensors, in which the positions of one prompt follow those of the one before.

What a shard holds beside its sites: `tokens` of every prompt, one after the other, and `lengths`, how many each has;
`positions`, the absolute ones that were kept, and `kept`, how many of each prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, cast
from zlib import crc32

import mlx.core as mx
import numpy as np

from mlx_patch.errors import FileError
from mlx_patch.files import written_whole
from mlx_patch.model import Ran
from mlx_patch.sites import Site
from mlx_patch.store._index import Held, Index, Shard

_FORMAT = "mlx_patch.ActivationStore.shard/1"
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Opened:
    """A shard that was read. Its arrays come from the disk when they are first used.

    Attributes:
        arrays: By name of site, each of shape `(row, *rest)`; with them `tokens`, `lengths`, `positions`, `kept`.
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


def file_name(number: int) -> str:
    """The name of a shard.

    Example:
        >>> file_name(7)
        'shard-00007.safetensors'
    """
    return f"shard-{number:05}.safetensors"


def write_shard(folder: Path, number: int, ran: Sequence[Ran], sites: Sequence[Held]) -> Shard:
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


def _joined(ran: Sequence[Ran], site: Site) -> mx.array:
    """One site of every prompt, as one array. Shape `(row, *rest)`."""
    joined = mx.concatenate([one.activations.pop(site)[0] for one in ran], axis=0)
    mx.eval(joined)
    return joined


def crc_of(path: Path) -> str:
    """The checksum of a file, 8 hex digits."""
    check = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            check = crc32(chunk, check)
    return f"{check:08x}"


def refuse_other_size(folder: Path, shard: Shard) -> None:
    """Refuse a shard that is gone, or has another size than when it was written.

    Raises:
        FileError: It is.
    """
    try:
        size = (folder / shard.file).stat().st_size
    except OSError as error:
        raise _damaged(folder, shard, f"cannot be read: {error.strerror}") from error
    if size != shard.bytes:
        raise _damaged(folder, shard, f"has {size} bytes of {shard.bytes}")


def refuse_damaged(folder: Path, shard: Shard) -> None:
    """Refuse a shard whose bytes are not those that were written. It reads the whole file.

    Raises:
        FileError: They are not.
    """
    refuse_other_size(folder, shard)
    if crc_of(folder / shard.file) != shard.crc32:
        raise _damaged(folder, shard, "is not what was written: its checksum differs")


def open_shard(folder: Path, index: Index, number: int) -> Opened:
    """A shard, whose arrays come from the disk when they are first used.

    Raises:
        FileError: It is not what the index says: a site, a shape or a dtype.
    """
    shard = index.shards[number]
    try:
        arrays = cast("dict[str, mx.array]", mx.load(str(folder / shard.file)))
    except (OSError, RuntimeError, ValueError) as error:
        raise _damaged(folder, shard, f"is no safetensors file: {error}") from error
    rows, prompts = {"positions": shard.rows}, {"lengths": shard.prompts, "kept": shard.prompts}
    wanted: dict[str, tuple[tuple[int, ...], Any]] = {
        held.site: ((shard.rows, *held.shape), getattr(mx, held.dtype)) for held in index.sites
    }
    wanted |= {name: ((size,), mx.int32) for name, size in {**rows, **prompts}.items()}
    for name, (shape, dtype) in wanted.items():
        got = _said(arrays[name].shape, arrays[name].dtype) if name in arrays else "nothing"
        if got != _said(shape, dtype):
            raise _damaged(folder, shard, f"has {got} for {name!r}, and the index {_said(shape, dtype)}")
    opened = Opened(arrays, sum(before.prompts for before in index.shards[:number]))
    if "tokens" not in arrays or sum(opened.lengths) != arrays["tokens"].size or opened.starts[-1] != shard.rows:
        raise _damaged(folder, shard, "does not fit: its prompts do not add up")
    return opened


def _said(shape: tuple[int, ...], dtype: mx.Dtype) -> str:
    return f"{str(dtype).removeprefix('mlx.core.')} {tuple(shape)}"


def _damaged(folder: Path, shard: Shard, why: str) -> FileError:
    return FileError(
        f"`path` must be a folder whose shards are whole. Got {folder}, where {shard.file} {why}. "
        "Delete the folder, and capture again."
    )
