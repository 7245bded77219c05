"""`Job`: one set of senders that act together, and all that reads what they send."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from mlx_patch.architectures import Layout
from mlx_patch.errors import SelectionError, shown
from mlx_patch.interventions import Edit, Span
from mlx_patch.paths._refusals import refuse_order, refuse_recomputed_senders, refuse_sender
from mlx_patch.paths._writers import StreamReader, StreamWriter, writers_of_edit


@dataclass(frozen=True, eq=False)
class Job:
    """Senders that act together.

    Attributes:
        edits: The senders, in order.
        writers: What they change from inside.
        readers: What reads it.
    """

    edits: tuple[Edit, ...]
    writers: frozenset[StreamWriter]
    readers: dict[StreamReader, None] = field(default_factory=dict)


def make_job(layout: Layout, edits: tuple[Edit, ...], readers: Iterable[StreamReader], length: int, freeze: str) -> Job:
    """A job, checked.

    Args:
        layout: The model's layout.
        edits: The senders.
        readers: What reads what they send.
        length: The positions of the prompts.
        freeze: What is frozen.
    Raises:
        PatchError: One of its paths cannot exist; the message says why.
    """
    senders = [(edit, writer) for edit in edits for writer in writers_of_edit(layout, edit)]
    for edit in edits:
        refuse_sender(layout, edit)
    refuse_recomputed_senders(freeze, senders)
    listed = dict.fromkeys(readers)
    for reader in listed:
        for edit, writer in senders:
            refuse_order(layout, edit, writer, reader)
    for edit in edits:
        _refuse_no_position(edit, length)
    return Job(edits, frozenset(writer for _, writer in senders), listed)


def _refuse_no_position(edit: Edit, length: int) -> None:
    for member in edit.parts:
        if member.pos is not None and not Span(0, length, length).local(member.pos):
            raise SelectionError(
                f"`pos` must choose a position of this prompt, 0 to {length - 1}. Got {shown(member.pos)}. Leave "
                "it out for "
                "all."
            )


def in_rounds(jobs: Sequence[Job]) -> Iterator[list[int]]:
    """The numbers of jobs that one run serves: no two of them send from the same writer."""
    rounds: list[tuple[set[StreamWriter], list[int]]] = []
    for number, job in enumerate(jobs):
        fitting = next((shared for shared in rounds if shared[0].isdisjoint(job.writers)), None)
        if fitting is None:
            fitting = set(), []
            rounds.append(fitting)
        writers, numbers = fitting
        writers |= job.writers
        numbers.append(number)
    for _, numbers in rounds:
        yield numbers
