"""Capture into a folder: one shard in memory at a time, atomic writes, and resumption after an interruption."""

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import mlx.core as mx

from mlx_patch import arguments
from mlx_patch.errors import FileError, KindError, SelectionError, ShapeError, ValueRefusedError, shown
from mlx_patch.files import clause_of, remove_leftovers
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
    require_hooked,
    run,
    run_rows,
)
from mlx_patch.sites import Site
from mlx_patch.store._identity import capture_identity
from mlx_patch.store._index import NAME, Index, Shard, StoredSite, folder_of, read_index
from mlx_patch.store._shards import ShardFile, open_shard, write_shard

CaptureProgress = Callable[[int, int | None], object]
"""A function of the number of prompts done and of their total, which is None if unknown."""

_PROBE = 2
_OTHER = "Give another path, or delete the folder."


@dataclass(frozen=True, eq=False)
class _CaptureRequest:
    """The arguments of a capture, checked."""

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
    require_hooked("model", model)
    rows = prompts_of(prompts, model.tokenizer, model.d_vocab)
    total = None
    if isinstance(prompts, Sized):
        total = len(prompts)
    folder = _make_folder(path)
    request = _checked_request(model, folder, sites, pos, edits, shard_mb, batch_size)
    with _locked(folder):
        request = replace(request, index=_resume_index(folder, request.index))
        _write_shards(request, rows, progress or _ignore_progress, total)
    return folder


def _checked_request(
    model: HookedModel,
    folder: Path,
    sites: SiteChoice,
    pos: PositionChoice,
    edits: Iterable[Edit],
    shard_mb: float,
    batch_size: int,
) -> _CaptureRequest:
    shard_mb = arguments.number("shard_mb", shard_mb, above=0, remedy="It is in megabytes.")
    model_sites = chosen_sites(model.layout, sites)
    edits = as_edits(edits)
    stored_sites = _stored_sites(model, model_sites)
    batch_size = checked_count("batch_size", batch_size, "prompts")
    identity = capture_identity(model, stored_sites, as_positions(pos), edits, shard_mb, batch_size)
    index = Index(identity, model.identity, model.n_layers, stored_sites)
    return _CaptureRequest(model, folder, model_sites, pos, edits, shard_mb * 1e6, batch_size, index)


def _stored_sites(model: HookedModel, sites: Sequence[Site]) -> tuple[StoredSite, ...]:
    """Each site with the shape of one row and its dtype, from a run of two tokens.

    Raises:
        ValueRefusedError: There is no site.
        ShapeError: A site has no row for each position.
    """
    if not sites:
        raise ValueRefusedError("`sites` must choose something. Got nothing. Write sites=('resid_post',), say.")
    for site in sites:
        if site.axes and site.axes[:2] != ("batch", "pos"):
            raise _not_by_position(site, "the axes " + " ".join(site.axes))
    tokens = mx.zeros((1, _PROBE), dtype=mx.int32)
    activations = run(model.layout, tokens, sites=tuple(sites), unembed=False).activations
    for site, array in activations.items():
        if array.shape[:2] != (1, _PROBE):
            raise _not_by_position(site, f"shape {array.shape} for a prompt of {_PROBE} tokens")
    return tuple(
        StoredSite(str(site), tuple(array.shape[2:]), str(array.dtype).removeprefix("mlx.core."))
        for site, array in activations.items()
    )


def _not_by_position(site: Site, defect: str) -> ShapeError:
    return ShapeError(
        f"`sites` must each have the axes (batch, pos, ...), whose positions can be joined. Got {site}, which has "
        f"{defect}. Capture it with `model.run_each_with_cache`."
    )


def _write_shards(
    request: _CaptureRequest, rows: Iterator[mx.array], progress: CaptureProgress, total: int | None
) -> None:
    """Write the missing shards, and check that the present ones are of these prompts."""
    index, folder = request.index, request.folder
    n_done, n_shards = 0, 0
    for window in _shard_windows(request, rows):
        if n_shards < len(index.shards):
            _refuse_other_prompts(folder, index, n_shards, window, n_done)
        elif index.complete:
            raise _other_prompts(folder, f"{n_done} prompts, but more were given")
        else:
            index = index.with_shard(_capture_shard(request, n_shards, window))
            index.write(folder)
        n_done += len(window)
        n_shards += 1
        progress(n_done, total)
    if n_shards < len(index.shards):
        raise _other_prompts(folder, f"more prompts than the {n_done} that were given")
    if n_done == 0:
        raise ValueRefusedError("`prompts` must hold a prompt. Got none.")
    if not index.complete:
        replace(index, complete=True).write(folder)


def _capture_shard(request: _CaptureRequest, number: int, window: Sequence[mx.array]) -> Shard:
    runs = run_rows(
        request.model.layout,
        window,
        request.edits,
        sites=request.sites,
        pos=request.pos,
        batch_size=request.batch_size,
        unembed=False,
        tokenizer=request.model.tokenizer,
    )
    return write_shard(request.folder, number, runs, request.index.sites)


def _shard_windows(request: _CaptureRequest, rows: Iterator[mx.array]) -> Iterator[list[mx.array]]:
    """The prompts of each shard: as many as reach its size, at least one."""
    window: list[mx.array] = []
    size = 0.0
    for number, row in enumerate(rows):
        window.append(row)
        pos = SelectorResolver(row, request.model.tokenizer).choice("pos", request.pos)
        n_positions = _count_positions(pos, row.shape[1], number)
        size += 4 * row.size + request.index.row_bytes * n_positions
        if size >= request.limit:
            yield window
            window, size = [], 0.0
    if window:
        yield window


def _count_positions(pos: PositionChoice, length: int, number: int) -> int:
    """The number of positions of a prompt that `pos` keeps.

    Raises:
        SelectionError: It keeps none, or one that the prompt does not have.
    """
    positions = as_positions(pos)
    if positions is None:
        return length
    try:
        count = len(Span(0, length, length).local(positions))
    except SelectionError as error:
        raise SelectionError(f"{error} This is prompt {number}, of {length} tokens.") from None
    if not count:
        raise SelectionError(
            f"`pos` must keep a position of each prompt. Got {shown(pos)} for prompt {number}, of {length}."
        )
    return count


def _refuse_other_prompts(folder: Path, index: Index, number: int, window: Sequence[mx.array], first: int) -> None:
    """Refuse a shard in the folder that is not of these prompts."""
    stored = open_shard(ShardFile(folder, index.shards[number]), index, number, check=False).tokens
    prompts = [tuple(cast("list[int]", row[0].tolist())) for row in window]
    for n, (stored_prompt, prompt) in enumerate(zip(stored, prompts, strict=False), start=first + 1):
        if stored_prompt == prompt:
            continue
        difference = f"{len(stored_prompt)} tokens in the folder, {len(prompt)} here"
        if len(stored_prompt) == len(prompt):
            difference = f"{len(prompt)} tokens, which differ"
        raise _other_prompts(folder, f"another prompt (number {n}: {difference})")
    if len(stored) > len(prompts):
        raise _other_prompts(folder, f"{first + len(stored)} prompts up to there, but fewer were given")
    if len(stored) < len(prompts):
        raise _other_prompts(folder, f"{first + len(stored)} prompts up to there, but more were given")


def _other_prompts(folder: Path, contents: str) -> FileError:
    return FileError(f"`path` must be a store of these prompts. Got {folder}, which holds {contents}. {_OTHER}")


def _make_folder(path: object) -> Path:
    """The folder, created if it does not exist.

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


def _resume_index(folder: Path, index: Index) -> Index:
    """The index in the folder, if an interrupted capture left one; otherwise the new one, which is written.

    Raises:
        FileError: The folder holds something else, or a capture of something else.
    """
    remove_leftovers(folder / NAME)
    if not (folder / NAME).exists():
        file_names = sorted(file.name for file in folder.iterdir())
        if file_names:
            raise FileError(
                f"`path` must be an empty folder, or one that ActivationStore.capture wrote. Got {folder}, which holds "
                f"{file_names[0]}. Choose another."
            )
        index.write(folder)
        return index
    stored_index = read_index(folder)
    clauses = list(differences(stored_index.identity, index.identity))
    if clauses:
        raise FileError(
            f"`path` must belong to this capture. Got {folder}, which has {clause_of(' and '.join(clauses))}. {_OTHER}"
        )
    return stored_index


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """A block in which no other process captures into a folder. The lock ends with the process that holds it.

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


def _ignore_progress(n_done: int, total: int | None) -> None:
    """The progress function of a capture without one."""
