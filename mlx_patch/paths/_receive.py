"""What receivers make of the host's stream and what senders have changed in it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import mlx.core as mx

from mlx_patch.model import run
from mlx_patch.paths._frozen import Frozen, RowValues
from mlx_patch.paths._host import Host
from mlx_patch.paths._jobs import Job
from mlx_patch.paths._send import Sent
from mlx_patch.paths._values import ReceivedValues
from mlx_patch.paths._writers import StreamReader, StreamWriter
from mlx_patch.sites import Site

Received = dict[StreamReader, ReceivedValues]
"""What each reader's site becomes."""


def receive(host: Host, jobs: Sequence[Job], sent: Sequence[Sent]) -> list[Received]:
    """What the receivers of each job make of it, from the first position at which anything differs."""
    received: list[Received] = [{} for _ in jobs]
    firsts = [of_job.first() for of_job in sent]
    for readers, positions, numbers in _chunks(host, jobs, firsts):
        arrays = _run_frozen(host, readers, positions, [sent[number] for number in numbers])
        changed = mx.concatenate([sent[number].changed for number in numbers])[:, mx.array(positions)]
        values_of = {reader: _values_where_changed(host, reader, positions, arrays, changed) for reader in readers}
        mx.eval(values_of)
        for place, number in enumerate(numbers):
            rows = slice(place * host.batch, (place + 1) * host.batch)
            for reader, values in values_of.items():
                job_positions = host.positions_of(reader, firsts[number])
                begin = positions.index(job_positions[0])
                received[number][reader] = _source(
                    host, reader, values[rows, begin : begin + len(job_positions)], job_positions
                )
    return received


def _chunks(
    host: Host, jobs: Sequence[Job], firsts: Sequence[int]
) -> Iterator[tuple[tuple[StreamReader, ...], tuple[int, ...], list[int]]]:
    """Readers, positions, and the numbers of jobs that one run serves.

    Where each position of the stream is by itself, a run to its end has only those that are read.
    """
    numbers_of: defaultdict[tuple[StreamReader, ...], list[int]] = defaultdict(list)
    for number, job in enumerate(jobs):
        for is_end in (False, True):
            readers = tuple(reader for reader in job.readers if reader.is_end == is_end)
            if readers:
                numbers_of[readers].append(number)
    for readers, numbers in numbers_of.items():
        positions = tuple(range(host.length))
        if readers[0].is_end and host.is_by_position:
            read = {pos for number in numbers for pos in host.positions_of(readers[0], firsts[number])}
            positions = tuple(sorted(read))
        size = host.jobs_at_once(len(positions))
        for begin in range(0, len(numbers), size):
            yield readers, positions, numbers[begin : begin + size]


def _run_frozen(
    host: Host, readers: Sequence[StreamReader], positions: tuple[int, ...], sent: Sequence[Sent]
) -> dict[Site, mx.array]:
    """The sites of receivers where each job's rows have the host's stream and what its senders changed, unevaluated."""
    values = _values_of_writers(host, positions, sent)
    sites = {reader.site for reader in readers}
    frozen = Frozen(values, frozenset(sites & values.keys()))
    captured = tuple(sorted(sites - values.keys(), key=str))
    tokens = mx.tile(host.tokens[:, host.index(positions)], (len(sent), 1))
    result = run(host.layout, tokens, [*host.standing, *frozen.edits()], sites=captured, unembed=False)
    return {**result.activations, **frozen.noted}


def _values_of_writers(host: Host, positions: tuple[int, ...], sent: Sequence[Sent]) -> dict[Site, RowValues]:
    """What writers add in each job's rows; None where the run computes it."""
    values: dict[Site, RowValues] = {}
    index = host.index(positions)
    values_of: defaultdict[StreamWriter, dict[int, mx.array]] = defaultdict(dict)
    for number, of_job in enumerate(sent):
        for writer in of_job.values:
            values_of[writer][number] = of_job.at(writer, positions)
    turns = [of_job.turn for of_job in sent]
    for writer in host.writers:
        unsent = host.activations[writer.site][:, index]
        pieces: list[mx.array | None] = [unsent] * len(sent)
        if not host.freezes(writer):
            pieces = [unsent if writer.turn < turn else None for turn in turns]
        for number, of_writer in values_of[writer].items():
            pieces[number] = of_writer
        if any(piece is not None for piece in pieces):
            values[writer.site] = pieces
    return values


def _values_where_changed(
    host: Host, reader: StreamReader, positions: tuple[int, ...], arrays: Mapping[Site, mx.array], changed: mx.array
) -> mx.array:
    """The heads that receive, in the rows of all jobs; the host's own value where nothing is sent."""
    array = arrays[reader.site]
    unchanged = host.activations[reader.site][:, mx.array(positions)]
    n_jobs = array.shape[0] // host.batch
    further_axes = [1] * (array.ndim - 2)
    mask = changed.reshape(*changed.shape, *further_axes)
    values = mx.where(mask, array, mx.tile(unchanged, (n_jobs, 1, *further_axes)))
    heads = host.heads(reader)
    if heads is None:
        return values
    return mx.take(values, mx.array(heads), axis=2)


def _source(host: Host, reader: StreamReader, values: mx.array, positions: tuple[int, ...]) -> ReceivedValues:
    head = host.heads(reader)
    n_heads = 0
    if head is not None:
        n_heads = host.activations[reader.site].shape[2]
    return ReceivedValues(reader.site, values, head, n_heads, host.tokens, positions)
