"""Capturing into a folder: one shard in memory at a time, whole files only, and from where it was left."""

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any, cast

import mlx.core as mx

from mlx_patch.errors import FileError, KindError, SelectionError, ShapeError, ValueRefusedError
from mlx_patch.files import remove_leftovers
from mlx_patch.fingerprints import differences
from mlx_patch.interventions import Edit, PositionChoice, Span, as_positions
from mlx_patch.model import (
    HookedModel,
    SelectorResolver,
    SiteChoice,
    as_edits,
    checked_count,
    chosen_sites,
    prompts_of,
    run,
    run_rows,
)
from mlx_patch.sites import Site
from mlx_patch.store._identity import capture_identity
from mlx_patch.store._index import NAME, Index, Shard, StoredSite, file_name, folder_of, read_index
from mlx_patch.store._shards import ShardFile, open_shard, write_shard

CaptureProgress = Callable[[int, int | None], object]
"""A function of the prompts that are done and of all; None where nobody knows how many there are."""

_PROBE = 2
_OTHER = "Give another path, or delete the folder."


@dataclass(frozen=True, eq=False)
class _Asked:
    """What a capture was asked for, checked."""

    model: HookedModel
    folder: Path
    sites: tuple[Site, ...]
    pos: PositionChoice
    edits: tuple[Edit, ...]
    limit: float
    batch_size: int
    index: Index


def capture(
    model: HookedModel,
    prompts: Iterable[Any],
    path: str | os.PathLike[str],
    sites: SiteChoice,
    pos: PositionChoice,
    edits: Iterable[Edit],
    shard_mb: float,
    batch_size: int,
    progress: CaptureProgress | None,
) -> Path:
    """What `ActivationStore.capture` does. Returns the folder."""
    if not (progress is None or callable(progress)):
        raise KindError(f"`progress` must be a function of (done, total), or None. Got {type(progress).__name__}.")
    rows = prompts_of(prompts, model.tokenizer, model.d_vocab)
    total = len(prompts) if isinstance(prompts, Sized) else None
    folder = _made(path)
    asked = _asked(model, folder, sites, pos, edits, shard_mb, batch_size)
    with _alone_in(folder):
        _fill(replace(asked, index=_begun(folder, asked.index)), rows, progress or _untold, total)
    return folder


def _asked(
    model: HookedModel,
    folder: Path,
    sites: SiteChoice,
    pos: PositionChoice,
    edits: Iterable[Edit],
    shard_mb: float,
    batch_size: int,
) -> _Asked:
    if (
        isinstance(shard_mb, bool)
        or not isinstance(shard_mb, int | float)
        or not 0 < shard_mb
        or not isfinite(shard_mb)
    ):
        raise ValueRefusedError(f"`shard_mb` must be more than 0 megabytes. Got {shard_mb!r}.")
    chosen, edits = chosen_sites(model.layout, sites), as_edits(edits)
    held = _held(model, chosen)
    identity = capture_identity(
        model, held, as_positions(pos), edits, shard_mb, checked_count("batch_size", batch_size, "prompts")
    )
    index = Index(identity, model.identity, model.n_layers, held)
    return _Asked(model, folder, chosen, pos, edits, shard_mb * 1e6, batch_size, index)


def _held(model: HookedModel, sites: Sequence[Site]) -> tuple[StoredSite, ...]:
    """The shape of one row of each site, and its dtype, from a run of two tokens.

    Raises:
        ValueRefusedError: There is no site.
        ShapeError: A site has no row for each position.
    """
    if not sites:
        raise ValueRefusedError("`sites` must choose something. Got nothing. Write sites=('resid_post',), say.")
    for site in sites:
        if site.axes and site.axes[:2] != ("batch", "pos"):
            raise _not_by_position(site, "the axes " + " ".join(site.axes))
    found = run(model.layout, mx.zeros((1, _PROBE), dtype=mx.int32), sites=tuple(sites), unembed=False).activations
    for site, array in found.items():
        if array.shape[:2] != (1, _PROBE):
            raise _not_by_position(site, f"shape {array.shape} for a prompt of {_PROBE} tokens")
    return tuple(
        StoredSite(str(site), tuple(array.shape[2:]), str(array.dtype).removeprefix("mlx.core."))
        for site, array in found.items()
    )


def _not_by_position(site: Site, got: str) -> ShapeError:
    return ShapeError(
        f"`sites` must each have the axes (batch, pos, ...), whose positions can be put one after the other. "
        f"Got {site}, which has {got}. Capture it with `model.run_each_with_cache`."
    )


def _fill(asked: _Asked, rows: Iterator[mx.array], progress: CaptureProgress, total: int | None) -> None:
    """Write the shards that are not there; see that those that are there are of these prompts."""
    index, folder, first, number = asked.index, asked.folder, 0, -1
    for number, window in enumerate(_windows(asked, rows)):
        if number < len(index.shards):
            _refuse_other_prompts(folder, index, number, window, first)
        elif index.complete:
            raise _other_prompts(folder, f"{first} prompts, and more were given")
        else:
            index = index.having(_captured(asked, number, window))
            index.write(folder)
        first += len(window)
        progress(first, total)
    if number + 1 < len(index.shards):
        raise _other_prompts(folder, f"more prompts than the {first} that were given")
    if first == 0:
        raise ValueRefusedError("`prompts` must hold a prompt. Got none.")
    if not index.complete:
        replace(index, complete=True).write(folder)


def _captured(asked: _Asked, number: int, window: Sequence[mx.array]) -> Shard:
    remove_leftovers(asked.folder / file_name(number), older_than=-1)
    ran = run_rows(
        asked.model.layout,
        window,
        asked.edits,
        sites=asked.sites,
        pos=asked.pos,
        batch_size=asked.batch_size,
        unembed=False,
        tokenizer=asked.model.tokenizer,
    )
    return write_shard(asked.folder, number, ran, asked.index.sites)


def _windows(asked: _Asked, rows: Iterator[mx.array]) -> Iterator[list[mx.array]]:
    """The prompts of each shard: as many as reach its size, one at least."""
    window: list[mx.array] = []
    size = 0.0
    for number, row in enumerate(rows):
        window.append(row)
        pos = SelectorResolver(row, asked.model.tokenizer).choice("pos", asked.pos)
        size += 4 * row.size + asked.index.row_bytes * _kept(pos, row.shape[1], number)
        if size >= asked.limit:
            yield window
            window, size = [], 0.0
    if window:
        yield window


def _kept(pos: PositionChoice, length: int, number: int) -> int:
    """How many positions of a prompt are kept.

    Raises:
        SelectionError: None, or one that is not there.
    """
    chosen = as_positions(pos)
    if chosen is None:
        return length
    try:
        kept = len(Span(0, length, length).local(chosen))
    except SelectionError as error:
        raise SelectionError(f"{error} This is prompt {number}, of {length} tokens.") from None
    if not kept:
        raise SelectionError(
            f"`pos` must keep a position of each prompt. Got {pos!r} for prompt {number}, of {length}."
        )
    return kept


def _refuse_other_prompts(folder: Path, index: Index, number: int, window: Sequence[mx.array], first: int) -> None:
    there = open_shard(ShardFile(folder, index.shards[number]), index, number, check=False).tokens
    here = [tuple(cast("list[int]", row[0].tolist())) for row in window]
    for n, (one, other) in enumerate(zip(there, here, strict=False)):
        if one != other:
            said = f"{len(one)} tokens in the folder, {len(other)} here"
            said = said if len(one) != len(other) else f"{len(one)} tokens, which differ"
            raise _other_prompts(folder, f"another prompt (number {first + n + 1}: {said})")
    if len(there) != len(here):
        few = "fewer" if len(here) < len(there) else "more"
        raise _other_prompts(folder, f"{first + len(there)} prompts up to there, and {few} were given")


def _other_prompts(folder: Path, of: str) -> FileError:
    return FileError(f"`path` must be a store of these prompts. Got {folder}, which is of {of}. {_OTHER}")


def _made(path: object) -> Path:
    """The folder, which is made if it is not there.

    Raises:
        KindError: `path` is no path.
        FileError: It is a file, or cannot be made.
    """
    folder = folder_of(path)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise FileError(
            f"`path` must be a folder, or a name for one. Got {folder}: {error.strerror}. Choose another."
        ) from error
    return folder


def _begun(folder: Path, wanted: Index) -> Index:
    """The index of a capture that was begun here, or a new one.

    Raises:
        FileError: The folder holds something else, or a capture of something else.
    """
    remove_leftovers(folder / NAME, older_than=-1)
    if not (folder / NAME).exists():
        others = [file.name for file in folder.iterdir()]
        if others:
            raise FileError(
                f"`path` must be an empty folder, or one that ActivationStore.capture wrote. Got {folder}, which holds "
                f"{sorted(others)[0]}. Choose another."
            )
        wanted.write(folder)
        return wanted
    there = read_index(folder)
    differing = list(differences(there.identity, wanted.identity))
    if differing:
        raise FileError(
            f"`path` must be of this capture. Got {folder}, which is of {' and of '.join(differing)}. {_OTHER}"
        )
    return there


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """A block in which no other process captures into a folder. A killed process leaves nothing behind.

    Raises:
        FileError: Another process does.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(handle, folder)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FileError(
            f"`path` must be a folder that no other capture writes to. Got {folder}. Wait for it, or choose another."
        ) from error


def _untold(done: int, total: int | None) -> None:
    """Tells nobody."""
