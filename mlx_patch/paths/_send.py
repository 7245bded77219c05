"""What senders write, each on the host's stream."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import mlx.core as mx
import numpy as np
from typing_extensions import override

from mlx_patch.architectures import Layout
from mlx_patch.interventions import Edit, Intervention, Span, Where
from mlx_patch.model import run
from mlx_patch.paths._frozen import Frozen
from mlx_patch.paths._host import Host, has_plain_mlp
from mlx_patch.paths._jobs import Job, in_rounds
from mlx_patch.paths._writers import StreamWriter
from mlx_patch.sites import Site


@dataclass(frozen=True, eq=False)
class Sent:
    """What the senders of a job write.

    Attributes:
        values: What each writer adds to the stream. Shape `(batch, len(positions), d_model)` each.
        positions: Where: all, or those that receivers read.
        changed: Whether the senders change anything in a row, at a position or before. Shape `(batch, pos)`.
    """

    values: dict[StreamWriter, mx.array]
    positions: tuple[int, ...]
    changed: mx.array

    @property
    def turn(self) -> int:
        """The turn of the first writer: what is written before is the host's."""
        return min(writer.turn for writer in self.values)

    @property
    def is_change(self) -> bool:
        """Whether the senders change anything."""
        return bool(np.array(self.changed).any())

    def at(self, writer: StreamWriter, positions: tuple[int, ...]) -> mx.array:
        """What a writer adds at some of the positions. Shape `(batch, len(positions), d_model)`."""
        values = self.values[writer]
        if positions == self.positions:
            return values
        return values[:, mx.array([self.positions.index(position) for position in positions])]

    def first(self) -> int:
        """The first position at which anything may differ; the last, if nothing does."""
        positions = np.flatnonzero(np.array(self.changed).any(axis=0))
        return int(min(positions, default=self.changed.shape[1] - 1))


@dataclass(frozen=True, eq=False, repr=False)
class InRounds(Intervention):
    """The edits of one site in a run of several rounds, whose rows stand one below the other.

    Attributes:
        edits: By the number of a round, the number of a job and its edit.
        n_rounds: The rounds of the run.
        positions: The positions of the host that run.
        length: How many the host has.
        host_activation: What the host has there, at all positions, if rounds with an edit need not compute it; else
            None.
        changed: By the number of a job, where an edit made a difference, unevaluated. Shape `(batch, pos)` each.
    """

    edits: Mapping[int, tuple[int, Edit]]
    n_rounds: int
    positions: tuple[int, ...]
    length: int
    host_activation: mx.array | None
    changed: dict[int, list[mx.array]]

    @override
    def __call__(self, own: mx.array, where: Where) -> mx.array:
        n_rows = own.shape[0] // self.n_rounds
        rounds = []
        for number in range(self.n_rounds):
            activation = own[number * n_rows : (number + 1) * n_rows]
            if number in self.edits:  # else the round may have an edit at another site of the writer
                if self.host_activation is not None:
                    activation = self.host_activation
                activation = self._edited(number, activation, where)
                if len(self.positions) < self.length:
                    activation = mx.take(activation, mx.array(self.positions), axis=where.pos_axis)
            rounds.append(activation)
        return mx.concatenate(rounds, axis=0)

    def _edited(self, number: int, activation: mx.array, where: Where) -> mx.array:
        job, edit = self.edits[number]
        edited = edit.apply(activation, where.site, Span(0, self.length, self.length))
        if edited is None:
            return activation
        self.changed[job].append(_changed_positions(edited != activation, where.pos_axis))
        return edited


def _changed_positions(differs: mx.array, pos_axis: int) -> mx.array:
    """Whether anything differs in a row, at a position or before. Shape `(batch, pos)`."""
    axes = tuple(axis for axis in range(1, differs.ndim) if axis != pos_axis)
    return mx.cummax(mx.any(differs, axis=axes).astype(mx.int32), axis=1) > 0


def send(host: Host, jobs: Sequence[Job]) -> list[Sent]:
    """What the senders of each job write where all that they read is the host's.

    Senders of different writers share rows: what one writes is noted, and the host's goes on. Those of one writer have
    rows of their own.
    """
    sent: dict[int, Sent] = {}
    rounds = list(in_rounds(jobs))
    positions = _positions_sent(host, jobs)
    size = host.jobs_at_once(len(positions))
    for begin in range(0, len(rounds), size):
        sent.update(_run_rounds(host, jobs, rounds[begin : begin + size], positions))
    return [sent[number] for number in range(len(jobs))]


def _positions_sent(host: Host, jobs: Sequence[Job]) -> tuple[int, ...]:
    """The positions at which it matters what senders write: all, unless each is by itself from them to the logits."""
    if host.reads is not None and host.is_by_position and all(_sends_by_position(host, job) for job in jobs):
        return tuple(sorted({*host.reads, host.length - 1}))
    return tuple(range(host.length))


def _sends_by_position(host: Host, job: Job) -> bool:
    """Whether a job has one sender, behind everything that mixes positions, and only the logits read it."""
    if len(job.edits) > 1 or not all(reader.is_end for reader in job.readers):
        return False
    sites = [site for edit in job.edits for site in host.layout.select(edit.site, edit.layer)]
    return all(site in host.sender_activations and _is_behind_mixing(host.layout, site) for site in sites)


def _is_behind_mixing(layout: Layout, site: Site) -> bool:
    """Whether a writer makes what it adds at a position of a site at that position alone."""
    points = layout.points[site.layer or 0]
    if site.name in ("mixer_out", "mlp_out"):
        return True
    if site.name == "mlp_post":
        return not layout.family.shared and has_plain_mlp(points)
    if site.name not in ("z", "attn_out"):
        return False
    # Beside the attention of some blocks stands another mixer, and `mixer_out` is the sum.
    attention = points.get("attn_out")
    return attention is not None and points.get("mixer_out", attention) == attention


def _run_rounds(
    host: Host, jobs: Sequence[Job], rounds: Sequence[Sequence[int]], positions: tuple[int, ...]
) -> Iterator[tuple[int, Sent]]:
    """The numbers of jobs with what their senders write at some positions."""
    index = host.index(positions)
    values = {writer.site: [host.activations[writer.site][:, index]] for writer in host.writers}
    writers = {writer for numbers in rounds for number in numbers for writer in jobs[number].writers}
    frozen = Frozen(values, frozenset(writer.site for writer in writers))
    changed: dict[int, list[mx.array]] = {number: [] for numbers in rounds for number in numbers}
    edits = _edits_in_rounds(host, jobs, rounds, positions, changed)
    tokens = mx.tile(host.tokens[:, index], (len(rounds), 1))
    run(host.layout, tokens, [*host.standing, *edits, *frozen.edits()], unembed=False)
    mx.eval(frozen.noted, changed)
    unchanged = mx.zeros(host.tokens.shape, mx.bool_)
    for place, numbers in enumerate(rounds):
        rows = slice(place * host.batch, (place + 1) * host.batch)
        for number in numbers:
            written = {writer: frozen.noted[writer.site][rows] for writer in jobs[number].writers}
            yield number, Sent(written, positions, reduce(mx.logical_or, changed[number], unchanged))


def _edits_in_rounds(
    host: Host,
    jobs: Sequence[Job],
    rounds: Sequence[Sequence[int]],
    positions: tuple[int, ...],
    changed: dict[int, list[mx.array]],
) -> Iterator[Edit]:
    """The senders of all rounds, those of one site as one edit; the first edits of every job first."""
    depth = max(len(jobs[number].edits) for numbers in rounds for number in numbers)
    for turn in range(depth):
        edits_at: dict[Site, dict[int, tuple[int, Edit]]] = {}
        for place, numbers in enumerate(rounds):
            for number in numbers:
                for edit in jobs[number].edits[turn : turn + 1]:
                    for site in host.layout.select(edit.site, edit.layer):
                        edits_at.setdefault(site, {})[place] = (number, edit)
        for site, edits in edits_at.items():
            host_activation = None
            if depth == 1:  # else another edit of the job may have changed what is there
                host_activation = host.sender_activations.get(site)
            yield InRounds(edits, len(rounds), positions, host.length, host_activation, changed).at(site)
