"""Answers of several tokens in a sweep: each prompt runs once for each answer, with the answer appended.

Answers that differ in their last token alone share a run, and so does one that another goes on from.

Edits see the prompt alone, as if nothing were behind it: what an answer's tokens make of it is the model's own affair.
Under causal attention nothing behind a position changes it, so metrics of the prompt are read in the same runs. Where
the answers of a batch differ in length, the shorter ones are followed by tokens that nobody reads.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np
from typing_extensions import override

from mlx_patch.architectures import Layout
from mlx_patch.errors import SelectionError
from mlx_patch.interventions import Change, Edit, PromptEdits, RowEdits, Span, pos_axis
from mlx_patch.metrics import Metric, MultiPositionMetric, SequenceMetric, Slot, for_examples, log_softmax_at
from mlx_patch.sites import Site
from mlx_patch.sweeps._cells import Cell, cell_of
from mlx_patch.sweeps._reading import Reading
from mlx_patch.tokens import Batch


@dataclass(frozen=True, repr=False)
class Forced(MultiPositionMetric):
    """Log-probability of what is appended to each row, in nats.

    Attributes:
        answers: The tokens of each row's answer.
        prompt: The positions of the prompt.
    """

    answers: Slot
    prompt: int

    @override
    def positions(self, length: int) -> tuple[int, ...]:
        """Each position before a token of the longest answer."""
        del length  # of the prompt, which the answers are behind
        return tuple(range(self.prompt - 1, self.prompt - 1 + max(map(len, self.answers))))

    @override
    def absolute(self, length: int) -> tuple[int, ...]:
        return self.positions(length)

    @override
    def measure_rows(self, rows: mx.array) -> mx.array:
        total = mx.zeros((rows.shape[0],))
        for step in range(rows.shape[1]):
            ids = mx.array([answer[min(step, len(answer) - 1)] for answer in self.answers])
            counts = mx.array([float(step < len(answer)) for answer in self.answers])
            own = log_softmax_at(rows[:, step], ids[:, None])[:, 0]
            total = total + mx.where(counts > 0, own, 0.0)
        return total


@dataclass(frozen=True, repr=False)
class InPrompt(Edit):
    """An edit that sees a prompt alone, in a run that goes on behind it.

    Attributes:
        prompt: The positions of the prompt.
    """

    prompt: int = 0

    @override
    def change(self, activation: mx.array, site: Site, span: Span) -> Change | None:
        here = self.prompt - span.offset
        if here <= 0:
            return None
        of_prompt = Span(span.offset, min(here, span.length), self.prompt, span.pieces)
        if of_prompt.length == span.length:
            return super().change(activation, site, of_prompt)
        _refuse_heaps(activation.shape, site, span)
        index = _first_of(activation.shape, site, of_prompt.length, span)
        change = super().change(activation[index], site, of_prompt)
        return None if change is None else change.within(activation)

    @override
    def __repr__(self) -> str:
        return repr(Edit(self.intervention, self.site, self.layer, self.pos, self.head, self.neuron, self.batch))

    @override
    def __hash__(self) -> int:
        return super().__hash__()


def _refuse_heaps(shape: tuple[int, ...], site: Site, span: Span) -> None:
    """Refuse what does not say which part of it is the prompt's: a raw path into a module of experts, say."""
    axis = pos_axis(site)
    if axis >= len(shape) or shape[axis] != span.length:
        raise SelectionError(
            f"`site` must have the {span.length} positions of a run along axis {axis} where an answer is behind the "
            f"prompt. Got {site}, of shape {shape}. Choose a named site, or a metric of one token."
        )


def _first_of(shape: tuple[int, ...], site: Site, own: int, span: Span) -> tuple[slice, ...]:
    """The index of a prompt's part: its positions, and of keys those up to its end.

    Keys that are more than the positions (compressed entries behind them) stay all: the prompt's rows do not see the
    ones that come later.
    """
    sizes = {pos_axis(site): own}
    if site.axes[-1:] == ("key_pos",) and shape[-1] <= span.end:
        sizes[len(shape) - 1] = shape[-1] - (span.length - own)
    return tuple(slice(0, sizes.get(axis, size)) for axis, size in enumerate(shape))


def in_prompt(edit: Edit, prompt: int) -> Edit:
    """The same edit in a run that goes on behind the prompt, its positions counted from 0."""
    if isinstance(edit, RowEdits | PromptEdits):
        return replace(edit, members=tuple(in_prompt(member, prompt) for member in edit.members))
    pos = edit.pos
    if pos is not None:
        pos = Span(0, prompt, prompt).local(pos)
    return InPrompt(
        edit.intervention, edit.site, edit.layer, pos, edit.head, edit.neuron, edit.batch, edit.steps, prompt
    )


@dataclass(frozen=True, eq=False)
class Expansion:
    """How the rows that are run hang together with the prompts and metrics that were asked for.

    Attributes:
        metrics: The metrics that were asked for, in order.
        batches: The prompts, in groups of equal length.
        runs: The different answers, those together that one run measures; the first is the one that is appended.
        plain: The metrics of the prompt alone, in the order in which the runs measure them, after the answers.
    """

    metrics: tuple[Metric, ...]
    batches: tuple[Batch, ...]
    runs: tuple[tuple[Slot, ...], ...]
    plain: tuple[Metric, ...]

    @property
    def most(self) -> int:
        """The answers that one run measures: the most of any, as what is measured has the same number in all."""
        return max(map(len, self.runs))

    @property
    def n_examples(self) -> int:
        """How many prompts there are."""
        return sum(len(batch.examples) for batch in self.batches)

    def groups(self) -> list[tuple[int, int, Batch]]:
        """What is run: the number of a batch, that of a run, and both in one, with rows numbered anew."""
        found, begun = [], 0
        for number, batch in enumerate(self.batches):
            for which, slots in enumerate(self.runs):
                rows = tuple(range(begun, begun + len(batch.examples)))
                found.append((number, which, Batch(_appended(batch, self._own(slots[0], batch)), rows)))
                begun += len(rows)
        return found

    def _own(self, slot: Slot, batch: Batch) -> Slot:
        return tuple(slot[example] for example in batch.examples)

    def reading(self, batch: Batch, slots: Sequence[Slot], prompt: Reading) -> Reading:
        """What is read of one group: its answers, then the metrics of the prompt."""
        forced = [Forced(self._own(slot, batch), batch.length, name="answer") for slot in slots]
        at = (
            None
            if prompt.at is None
            else tuple(sorted({*prompt.at, *(pos for one in forced for pos in one.positions(batch.length))}))
        )
        forced += forced[:1] * (self.most - len(forced))
        return Reading((*forced, *prompt.metrics), at, batch.length)

    def combined(self, found: np.ndarray) -> np.ndarray:
        """What was asked for, of what was measured. `(..., answers + plain, row)` to `(..., metric, example)`."""
        out = np.full((*found.shape[:-2], len(self.metrics), self.n_examples), np.nan, np.float32)
        for m, metric, examples, places in self._places():
            parts = np.stack([found[..., at, rows] for at, rows in places])
            with np.errstate(invalid="ignore"):  # a difference of two infinities is NaN
                out[..., m, examples] = metric.combine(parts) if isinstance(metric, SequenceMetric) else parts[0]
        return out

    def measured(self, mask: np.ndarray) -> np.ndarray:
        """What of what was asked for has been run, of what has been. Shapes as for `combined`."""
        out = np.zeros((*mask.shape[:-2], len(self.metrics), self.n_examples), bool)
        for m, _, examples, places in self._places():
            out[..., m, examples] = np.stack([mask[..., at, rows] for at, rows in places]).all(axis=0)
        return out

    def _places(self) -> Iterator[tuple[int, Metric, list[int], list[tuple[int, list[int]]]]]:
        """For each metric and batch: its number, itself, the examples; and where each of its parts was measured."""
        rows = {(number, which): list(batch.examples) for number, which, batch in self.groups()}
        runs = {slot: (which, at) for which, slots in enumerate(self.runs) for at, slot in enumerate(slots)}
        names = [metric.name for metric in self.plain]
        for number, batch in enumerate(self.batches):
            for m, metric in enumerate(self.metrics):
                if isinstance(metric, SequenceMetric):
                    parts = [runs[self._whole(metric, slot)] for slot in metric.slots]
                else:
                    parts = [(0, self.most + names.index(metric.name))]
                yield m, metric, list(batch.examples), [(at, rows[number, which]) for which, at in parts]

    def _whole(self, metric: SequenceMetric, slot: Slot) -> Slot:
        return for_examples(metric, slot, self.n_examples)


def expansion_of(metrics: Sequence[Metric], batches: Sequence[Batch], d_vocab: int) -> Expansion | None:
    """How to run metrics of answers of several tokens; None where there is none.

    Raises:
        ShapeError: A metric has several answers, and not one per example.
        SelectionError: A token that the model does not know.
    """
    forced = [metric for metric in metrics if isinstance(metric, SequenceMetric)]
    if not forced:
        return None
    n = sum(len(batch.examples) for batch in batches)
    slots = dict.fromkeys(for_examples(metric, slot, n) for metric in forced for slot in metric.slots)
    for token in (token for slot in slots for answer in slot for token in answer):
        if token >= d_vocab:
            raise SelectionError(f"`metric` must have answers of the model's {d_vocab} tokens. Got {token}.")
    return Expansion(tuple(metrics), tuple(batches), _shared(slots), plain_of(metrics))


def _shared(slots: Iterable[Slot]) -> tuple[tuple[Slot, ...], ...]:
    """Answers by the run that measures them: one whose appended tokens begin with all of theirs but the last."""
    runs: list[list[Slot]] = []
    for slot in sorted(slots, key=lambda slot: -sum(map(len, slot))):
        own = next((run for run in runs if _goes_on(run[0], slot)), None)
        if own is None:
            runs.append([slot])
        else:
            own.append(slot)
    return tuple(map(tuple, runs))


def _goes_on(longer: Slot, slot: Slot) -> bool:
    return all(
        len(one) <= len(other) and other[: len(one) - 1] == one[:-1] for other, one in zip(longer, slot, strict=True)
    )


def expanded(
    layout: Layout, expansion: Expansion, readings: Sequence[Reading], cells: Sequence[Sequence[Cell]]
) -> dict[str, Any]:
    """The batches, readings and cells that are run."""
    found: dict[str, list[Any]] = {"batches": [], "readings": [], "cells": []}
    for number, which, batch in expansion.groups():
        prompt = expansion.batches[number]
        reading = expansion.reading(prompt, expansion.runs[which], readings[number])
        edits = ([in_prompt(edit, prompt.length) for edit in cell.edits] for cell in cells[number])
        found["batches"].append(batch)
        found["readings"].append(reading)
        found["cells"].append(tuple(cell_of(layout, own, batch.length, reading.reach) for own in edits))
    return {name: tuple(several) for name, several in found.items()}


def _appended(batch: Batch, answers: Slot) -> mx.array:
    """The prompts, each with all but the last token of its answer, which nothing comes after."""
    longest = max(map(len, answers)) - 1
    if not longest:
        return batch.tokens
    rows = [(*answer[:-1], *[answer[-1]] * longest)[:longest] for answer in answers]
    return mx.concatenate([batch.tokens, mx.array(rows, dtype=batch.tokens.dtype)], axis=1)


def plain_of(metrics: Sequence[Metric]) -> tuple[Metric, ...]:
    """The metrics of the prompt alone."""
    return tuple(metric for metric in metrics if not isinstance(metric, SequenceMetric))
