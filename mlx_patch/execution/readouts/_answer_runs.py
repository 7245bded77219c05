"""Answers of several tokens: each is appended to the prompt and measured in a run of its own."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_patch.architectures import Layout
from mlx_patch.errors import SelectionError
from mlx_patch.execution.cells import Cell, cell_of
from mlx_patch.execution.readouts._answer_log_prob import AnswerLogProb
from mlx_patch.execution.readouts._prompt_only import in_prompt
from mlx_patch.execution.readouts._readout import Readout
from mlx_patch.metrics import Metric, SequenceMetric, Slot, for_examples
from mlx_patch.tokens import Batch


@dataclass(frozen=True, eq=False)
class AnswerRuns:
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

    def readout(self, batch: Batch, slots: Sequence[Slot], prompt: Readout) -> Readout:
        """What is read of one group: its answers, then the metrics of the prompt."""
        forced = [AnswerLogProb(self._own(slot, batch), batch.length, name="answer") for slot in slots]
        at = (
            None
            if prompt.at is None
            else tuple(sorted({*prompt.at, *(pos for one in forced for pos in one.positions(batch.length))}))
        )
        forced += forced[:1] * (self.most - len(forced))
        return Readout((*forced, *prompt.metrics), at, batch.length)

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


def answer_runs(metrics: Sequence[Metric], batches: Sequence[Batch], d_vocab: int) -> AnswerRuns | None:
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
    return AnswerRuns(tuple(metrics), tuple(batches), _shared(slots), plain_of(metrics))


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


def with_answers(
    layout: Layout, answers: AnswerRuns, readouts: Sequence[Readout], cells: Sequence[Sequence[Cell]]
) -> dict[str, Any]:
    """The batches, readouts and cells that are run."""
    found: dict[str, list[Any]] = {"batches": [], "readouts": [], "cells": []}
    for number, which, batch in answers.groups():
        prompt = answers.batches[number]
        readout = answers.readout(prompt, answers.runs[which], readouts[number])
        edits = ([in_prompt(edit, prompt.length) for edit in cell.edits] for cell in cells[number])
        found["batches"].append(batch)
        found["readouts"].append(readout)
        found["cells"].append(tuple(cell_of(layout, own, batch.length, readout.reach) for own in edits))
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
