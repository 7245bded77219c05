"""What senders write, each on the host's stream."""

from collections.abc import Sequence

import mlx.core as mx

from mlx_patch.model import run
from mlx_patch.paths._frozen import Frozen
from mlx_patch.paths._host import Host
from mlx_patch.paths._jobs import Job, in_rounds
from mlx_patch.paths._writers import Writer

Sent = dict[Writer, mx.array]
"""What each writer of a job adds to the stream. Shape `(batch, pos, d_model)` each."""


def send(host: Host, jobs: Sequence[Job]) -> list[Sent]:
    """What the senders of each job write where all that they read is the host's.

    Senders of different writers share a run: what one writes is noted, and the host's goes on.
    """
    sent: list[Sent] = [{} for _ in jobs]
    values = {writer.site: [host.activations[writer.site]] for writer in host.writers}
    for numbers in in_rounds(jobs):
        writers = {writer: number for number in numbers for writer in jobs[number].writers}
        frozen = Frozen(values, frozenset(writer.site for writer in writers))
        edits = [edit for number in numbers for edit in jobs[number].edits]
        run(host.layout, host.tokens, [*host.standing, *edits, *frozen.edits()], unembed=False)
        mx.eval(frozen.noted)
        for writer, number in writers.items():
            sent[number][writer] = frozen.noted[writer.site]
    return sent


def changed_rows(host: Host, sent: Sent) -> mx.array:
    """Whether a job's senders write anything else than the host's writers do. Shape `(batch,)`."""
    changed = mx.zeros((host.batch,), mx.bool_)
    for writer, array in sent.items():
        differs = array != host.activations[writer.site]
        changed = changed | mx.any(differs, axis=tuple(range(1, differs.ndim)))
    return changed
