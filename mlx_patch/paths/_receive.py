"""What receivers make of the host's stream and what senders have changed in it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import mlx.core as mx

from mlx_patch.model import run
from mlx_patch.paths._frozen import Frozen, RowValues
from mlx_patch.paths._host import Host
from mlx_patch.paths._jobs import Job
from mlx_patch.paths._send import Sent, changed_rows
from mlx_patch.paths._values import ReceivedValues
from mlx_patch.paths._writers import Reader
from mlx_patch.sites import Site

Received = dict[Reader, ReceivedValues]
"""What each reader's site becomes, from a job's first position on."""

_TOKENS = 2048
"""How many tokens the jobs of one run have together, so that memory stays bounded."""


def receive(host: Host, jobs: Sequence[Job], sent: Sequence[Sent]) -> list[Received]:
    """What the receivers of each job make of it."""
    received: list[Received] = [{} for _ in jobs]
    for numbers in _chunks(host, jobs):
        readers = tuple(jobs[numbers[0]].readers)
        arrays = _run_frozen(host, readers, [sent[number] for number in numbers])
        for place, number in enumerate(numbers):
            rows = slice(place * host.batch, (place + 1) * host.batch)
            changed = changed_rows(host, sent[number])
            for reader in readers:
                values = _values_where_changed(host, reader, arrays[reader.site][rows], changed)
                received[number][reader] = _from_first(host, reader, values, jobs[number].first)
        mx.eval([of_job.values for number in numbers for of_job in received[number].values()])
    return received


def _from_first(host: Host, reader: Reader, values: mx.array, first: int) -> ReceivedValues:
    head = host.heads(reader)
    n_heads = 0
    if head is not None:
        n_heads = host.activations[reader.site].shape[2]
    positions = tuple(range(first, host.length))
    return ReceivedValues(reader.site, mx.contiguous(values[:, first:]), head, n_heads, host.tokens, positions)


def _chunks(host: Host, jobs: Sequence[Job]) -> Iterator[list[int]]:
    """The numbers of jobs that one run serves: they have the same receivers."""
    numbers_of: defaultdict[tuple[Reader, ...], list[int]] = defaultdict(list)
    for number, job in enumerate(jobs):
        numbers_of[tuple(job.readers)].append(number)
    size = max(1, _TOKENS // host.tokens.size)
    if host.standing:  # they may read the batch, or draw for its shape
        size = 1
    for numbers in numbers_of.values():
        for begin in range(0, len(numbers), size):
            yield numbers[begin : begin + size]


def _run_frozen(host: Host, readers: Sequence[Reader], sent: Sequence[Sent]) -> dict[Site, mx.array]:
    """The sites of receivers where each job's rows have the host's stream and what its senders changed, unevaluated."""
    values: dict[Site, RowValues] = {}
    for writer in host.writers:
        unsent = None
        if host.freezes(writer):
            unsent = host.activations[writer.site]
        pieces = [of_job.get(writer, unsent) for of_job in sent]
        if any(piece is not None for piece in pieces):
            values[writer.site] = pieces
    sites = {reader.site for reader in readers}
    frozen = Frozen(values, frozenset(sites & values.keys()))
    captured = tuple(sorted(sites - values.keys(), key=str))
    tokens = mx.tile(host.tokens, (len(sent), 1))
    result = run(host.layout, tokens, [*host.standing, *frozen.edits()], sites=captured, unembed=False)
    return {**result.activations, **frozen.noted}


def _values_where_changed(host: Host, reader: Reader, array: mx.array, changed: mx.array) -> mx.array:
    """The heads that receive; the host's own value in rows in which nothing is sent."""
    unchanged = host.activations[reader.site]
    mask = changed.reshape(-1, *[1] * (array.ndim - 1))
    values = mx.where(mask, array, unchanged)
    heads = host.heads(reader)
    if heads is None:
        return values
    return mx.take(values, mx.array(heads), axis=2)
