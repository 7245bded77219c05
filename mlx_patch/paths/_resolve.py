"""From cells with paths to cells of ordinary edits."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_patch.architectures import Layout
from mlx_patch.interventions import CellEdit, Edit, Path, refuse_steps
from mlx_patch.model import RunResult
from mlx_patch.paths._host import Host, run_host
from mlx_patch.paths._jobs import Job, make_job
from mlx_patch.paths._receive import Received, receive
from mlx_patch.paths._refusals import checked_freeze, refuse_mixture, refuse_model, refuse_overlap
from mlx_patch.paths._send import Sent, send
from mlx_patch.paths._values import added_edit, replacing_edit
from mlx_patch.paths._writers import StreamReader, readers_of

SendersByReader = dict[StreamReader, tuple[Edit, ...]]
"""What a cell's paths end in, each with the senders that it reads."""


@dataclass(frozen=True, eq=False)
class ResolvedPaths:
    """Cells of ordinary edits.

    Attributes:
        cells: The edits of each cell.
        host_run: The host's run with its logits, unevaluated, and the stream at its end; None where that is not kept,
            or a cell has no path.
        unchanged: The numbers of the cells whose senders change nothing.
    """

    cells: list[tuple[Edit, ...]]
    host_run: RunResult | None = None
    unchanged: frozenset[int] = frozenset()


def has_paths(cells: Iterable[Sequence[CellEdit]]) -> bool:
    """Whether any cell has a path."""
    return any(isinstance(member, Path) for cell in cells for member in cell)


def resolve_paths(
    layout: Layout,
    tokens: mx.array,
    standing: Sequence[Edit],
    cells: Sequence[Sequence[CellEdit]],
    freeze: str,
    reads: tuple[int, ...] | None = None,
) -> ResolvedPaths:
    """The edits of each cell, with edits at the receivers in place of paths.

    The paths of a cell act together: what one receiver is given has the changes of all its senders. The value of a
    receiver is computed here, on the host's stream, and put in by `Replace`. What reaches the logits beside other
    receivers is added to the stream instead, which has what the others have changed.

    Args:
        layout: The model's layout.
        tokens: The prompts, which are the host. Shape `(batch, pos)`.
        standing: The edits that every run has.
        cells: Edits or paths, at positions without selectors.
        freeze: "all" freezes every other writer; "attention" all but MLPs, which are recomputed.
        reads: The positions whose logits are read; None is all. At others, what reaches the logits is left out.
    Raises:
        PatchError: A path cannot exist, or the model has none; the message says why.
    Source:
        Goldowsky-Dill et al. 2023, https://arxiv.org/abs/2304.05969, section 2, for "all"; Wang et al. 2022,
        https://arxiv.org/abs/2211.00593, section 3.1, for "attention".
    """
    checked_freeze(freeze)
    if not has_paths(cells):
        return ResolvedPaths([tuple(cell) for cell in cells])
    refuse_model(layout)
    for cell in cells:
        refuse_mixture(cell)
    inner = [[path.sender] for cell in cells for path in _paths(cell) if isinstance(path.sender, Path)]
    resolved_inner = iter(resolve_paths(layout, tokens, standing, inner, freeze).cells)
    senders_of_cells = [_senders_of_cell(layout, cell, resolved_inner) for cell in cells]
    jobs = _make_jobs(layout, senders_of_cells, tokens.shape[1], freeze)
    edits = [edit for job in jobs.values() for edit in job.edits]
    receivers = [reader.site for job in jobs.values() for reader in job.readers]
    host = run_host(layout, tokens, standing, freeze, reads, edits, receivers)
    sent, received = _received(host, list(jobs.values()))
    silent = {senders for senders, of_job in sent.items() if not of_job.is_change}
    resolved: list[tuple[Edit, ...]] = []
    unchanged: set[int] = set()
    for number, (cell, senders_of_cell) in enumerate(zip(cells, senders_of_cells, strict=True)):
        if senders_of_cell:
            resolved.append(tuple(_edits_of_cell(host, senders_of_cell, received)))
        else:
            resolved.append(tuple(cell))
        if senders_of_cell and silent.issuperset(senders_of_cell.values()):
            unchanged.add(number)
    host_run = host.host_run if all(senders_of_cells) else None
    return ResolvedPaths(resolved, host_run, frozenset(unchanged))


def _paths(cell: Sequence[CellEdit]) -> Iterator[Path]:
    for member in cell:
        if isinstance(member, Path):
            yield member


def _senders_of_cell(
    layout: Layout, cell: Sequence[CellEdit], resolved_inner: Iterator[tuple[Edit, ...]]
) -> SendersByReader:
    """What the paths of a cell end in, in the order of a forward pass."""
    senders_of: SendersByReader = {}
    for path in _paths(cell):
        refuse_steps(path.edit, generation=False)
        senders = (path.sender,)
        if isinstance(path.sender, Path):
            senders = next(resolved_inner)
        for receiver in path.receivers:
            for reader in readers_of(layout, receiver):
                senders_of[reader] = (*senders_of.get(reader, ()), *senders)
    return dict(sorted(senders_of.items(), key=lambda item: item[0].turn))


def _make_jobs(
    layout: Layout, cells: Iterable[SendersByReader], length: int, freeze: str
) -> dict[tuple[Edit, ...], Job]:
    """A job for each set of senders, with all that reads them in any cell."""
    readers_of_senders: dict[tuple[Edit, ...], dict[StreamReader, None]] = {}
    for cell in cells:
        for reader, senders in cell.items():
            readers_of_senders.setdefault(senders, {})[reader] = None
    return {
        senders: make_job(layout, senders, readers, length, freeze) for senders, readers in readers_of_senders.items()
    }


def _received(host: Host, jobs: Sequence[Job]) -> tuple[dict[tuple[Edit, ...], Sent], dict[tuple[Edit, ...], Received]]:
    """What each job's senders write, and what each reader is given, by the senders."""
    for job in jobs:
        for reader in job.readers:
            host.heads(reader)
    sent = send(host, jobs)
    received = receive(host, jobs, sent)
    senders = [job.edits for job in jobs]
    return dict(zip(senders, sent, strict=True)), dict(zip(senders, received, strict=True))


def _edits_of_cell(
    host: Host, senders_of_cell: SendersByReader, received: dict[tuple[Edit, ...], Received]
) -> Iterator[Edit]:
    refuse_overlap(senders_of_cell, host.heads)
    for reader, senders in senders_of_cell.items():
        source = received[senders][reader]
        if reader.is_end and len(senders_of_cell) > 1:
            yield added_edit(source, host.activations[reader.site])
        else:
            yield replacing_edit(source, reader.is_end)
