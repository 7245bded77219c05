"""Answers of several tokens: each is appended to the prompt and measured in a run of its own."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import mlx.core as mx
import numpy as np

from mlx_patch.architectures import Layout
from mlx_patch.errors import SelectionError
from mlx_patch.execution.cells import Cell, KnownRun, cell_of, with_standing
from mlx_patch.execution.readouts._answer_log_prob import AnswerLogProb
from mlx_patch.execution.readouts._prompt_only import in_prompt
from mlx_patch.execution.readouts._readout import Readout, count_examples
from mlx_patch.interventions import Edit
from mlx_patch.metrics import Metric, SequenceMetric, Slot, for_examples
from mlx_patch.tokens import Batch

MeasuredPlaces = list[tuple[int, list[int]]]
"""For each part of a metric: the index of its value in what a run measures, and the rows of that run."""


_STEP = 1e-4
"""How far along a change a combination of answers is differentiated."""


@dataclass(frozen=True, eq=False)
class AnswerRuns:
    """Maps the rows that are run back to the prompts and metrics that were requested.

    Attributes:
        metrics: The requested metrics, in order.
        batches: The prompts, in groups of equal length.
        runs: The different answers, grouped by the run that measures them; the run appends the first of its group.
        plain: The metrics of the prompt alone, in the order in which the runs measure them, after the answers.
    """

    metrics: tuple[Metric, ...]
    batches: tuple[Batch, ...]
    runs: tuple[tuple[Slot, ...], ...]
    plain: tuple[Metric, ...]

    @property
    def answers_per_run(self) -> int:
        """The answers that each run measures: as many as the largest group has, as all runs have one shape."""
        return max(map(len, self.runs))

    @property
    def n_examples(self) -> int:
        """The number of prompts."""
        return sum(len(batch.examples) for batch in self.batches)

    def groups(self) -> list[tuple[int, int, Batch]]:
        """The groups to run: batch number, run number, and their tokens as a batch with renumbered rows."""
        groups = []
        n_rows = 0
        for number, batch in enumerate(self.batches):
            for run, slots in enumerate(self.runs):
                rows = tuple(range(n_rows, n_rows + len(batch.examples)))
                answers = _select_answers(slots[0], batch)
                groups.append((number, run, Batch(_append_answers(batch, answers), rows)))
                n_rows += len(rows)
        return groups

    def readout(self, batch: Batch, slots: Sequence[Slot], prompt: Readout) -> Readout:
        """What is read of one group: its answers, then the metrics of the prompt."""
        answers = []
        for slot in slots:
            answers.append(AnswerLogProb(_select_answers(slot, batch), batch.length, name="answer"))
        at = prompt.at
        if at is not None:
            positions = set(at)
            for answer in answers:
                positions.update(answer.positions(batch.length))
            at = tuple(sorted(positions))
        padding = answers[:1] * (self.answers_per_run - len(answers))
        return Readout((*answers, *padding, *prompt.metrics), at, batch.length)

    def combined(self, values: np.ndarray) -> np.ndarray:
        """The requested metrics, from measured values. `(..., answers + plain, row)` to `(..., metric, example)`."""
        combined = np.full((*values.shape[:-2], len(self.metrics), self.n_examples), np.nan, values.dtype)
        for number, examples, places in self._locate_parts():
            metric = self.metrics[number]
            metric_parts = np.stack([values[..., index, rows] for index, rows in places])
            if isinstance(metric, SequenceMetric):
                with np.errstate(invalid="ignore"):  # a difference of two infinities is NaN
                    combined[..., number, examples] = metric.combine(metric_parts)
            else:
                combined[..., number, examples] = metric_parts[0]
        return combined

    def to_first_order(self, values: np.ndarray, baseline: np.ndarray) -> np.ndarray:
        """The requested metrics, to first order in the distance of measured values from the baseline.

        Args:
            values: Shape `(..., answers + plain, row)`.
            baseline: Shape `(answers + plain, row)`.
        Returns:
            Float32. Shape `(..., metric, example)`.
        """
        wide = baseline.astype(np.float64)
        change = values - wide
        above, below = self.combined(wide + _STEP * change), self.combined(wide - _STEP * change)
        return (self.combined(wide) + (above - below) / (2 * _STEP)).astype(np.float32)

    def measured(self, mask: np.ndarray) -> np.ndarray:
        """Which requested numbers are complete, from a mask of measured values. Shapes as for `combined`."""
        complete = np.zeros((*mask.shape[:-2], len(self.metrics), self.n_examples), bool)
        for number, examples, places in self._locate_parts():
            masks = np.stack([mask[..., index, rows] for index, rows in places])
            complete[..., number, examples] = masks.all(axis=0)
        return complete

    def _locate_parts(self) -> Iterator[tuple[int, list[int], MeasuredPlaces]]:
        """For each batch and metric: the metric's number, the examples, and where each part was measured."""
        rows_of = {(batch_number, run): list(batch.examples) for batch_number, run, batch in self.groups()}
        places_of_slot = self._locate_slots()
        names = [metric.name for metric in self.plain]
        for batch_number, batch in enumerate(self.batches):
            for number, metric in enumerate(self.metrics):
                if isinstance(metric, SequenceMetric):
                    slots = [for_examples(metric, slot, self.n_examples) for slot in metric.slots]
                    run_places = [places_of_slot[slot] for slot in slots]
                else:
                    index = self.answers_per_run + names.index(metric.name)
                    run_places = [(0, index)]
                places = [(index, rows_of[batch_number, run]) for run, index in run_places]
                yield number, list(batch.examples), places

    def _locate_slots(self) -> dict[Slot, tuple[int, int]]:
        """For each answer the run that measures it, and its index there."""
        places = {}
        for run, slots in enumerate(self.runs):
            for index, slot in enumerate(slots):
                places[slot] = run, index
        return places


def _select_answers(slot: Slot, batch: Batch) -> Slot:
    """The answers of the prompts of a batch."""
    return tuple(slot[example] for example in batch.examples)


def answer_runs(metrics: Sequence[Metric], batches: Sequence[Batch], d_vocab: int) -> AnswerRuns | None:
    """How to run metrics of answers of several tokens; None where there is none.

    Raises:
        ShapeError: A metric has several answers, and not one per example.
        SelectionError: A token that the model does not know.
    """
    answer_metrics = [metric for metric in metrics if isinstance(metric, SequenceMetric)]
    if not answer_metrics:
        return None
    n_examples = count_examples(batches)
    slots: dict[Slot, None] = {}  # a set in order of appearance
    for metric in answer_metrics:
        for slot in metric.slots:
            slots[for_examples(metric, slot, n_examples)] = None
    for slot in slots:
        _refuse_unknown_tokens(slot, d_vocab)
    return AnswerRuns(tuple(metrics), tuple(batches), _share_runs(slots), plain_of(metrics))


def _refuse_unknown_tokens(slot: Slot, d_vocab: int) -> None:
    for answer in slot:
        for token in answer:
            if token >= d_vocab:
                raise SelectionError(f"`metric` must have answers among the model's {d_vocab} tokens. Got {token}.")


def _share_runs(slots: Iterable[Slot]) -> tuple[tuple[Slot, ...], ...]:
    """Answers grouped by the run that measures them, the answer that the run appends first.

    The logits behind a token predict the next one. So a run that appends "a b c" has the log-probabilities of every
    token of "a b x" too: the last token of an answer is only predicted, never read. An answer fits a run if, in each
    row, all its tokens but the last are those that the run appends. Longer answers come first, as only they can hold
    shorter ones.
    """
    runs: list[list[Slot]] = []
    for slot in sorted(slots, key=_count_tokens, reverse=True):
        run = next((run for run in runs if _is_measured_with(slot, run[0])), None)
        if run is None:
            runs.append([slot])
        else:
            run.append(slot)
    return tuple(map(tuple, runs))


def _count_tokens(slot: Slot) -> int:
    return sum(map(len, slot))


def _is_measured_with(slot: Slot, appended: Slot) -> bool:
    """Whether a run that appends other answers, one a row, measures those of a slot as well."""
    for answer, appended_answer in zip(slot, appended, strict=True):
        prefix = answer[:-1]
        if len(answer) > len(appended_answer) or appended_answer[: len(prefix)] != prefix:
            return False
    return True


@dataclass(frozen=True, eq=False)
class RunGroups:
    """The groups of prompts to run, each with its readout, its standing edits and its cells.

    `host_runs` has, for each group, the run with standing edits alone, where it was run to make the cells.
    """

    batches: tuple[Batch, ...]
    readouts: tuple[Readout, ...]
    standing: tuple[tuple[Edit, ...], ...]
    cells: tuple[tuple[Cell, ...], ...]
    host_runs: tuple[KnownRun | None, ...] = ()


def joined_groups(draws: Sequence[RunGroups]) -> RunGroups:
    """The groups of the same prompts with several standing edits, one after the other; their rows are renumbered."""
    batches: list[Batch] = []
    n_rows = count_examples(draws[0].batches)
    for number, groups in enumerate(draws):
        for batch in groups.batches:
            rows = tuple(number * n_rows + row for row in batch.examples)
            batches.append(replace(batch, examples=rows))
    return RunGroups(
        tuple(batches),
        tuple(chain.from_iterable(groups.readouts for groups in draws)),
        tuple(chain.from_iterable(groups.standing for groups in draws)),
        tuple(chain.from_iterable(groups.cells for groups in draws)),
        tuple(chain.from_iterable(groups.host_runs for groups in draws)),
    )


def with_answers(layout: Layout, answers: AnswerRuns, groups: RunGroups) -> RunGroups:
    """The groups in which answers stand behind their prompts."""
    batches, readouts, run_standing, run_cells = [], [], [], []
    for number, run, batch in answers.groups():
        prompt = answers.batches[number]
        readout = answers.readout(prompt, answers.runs[run], groups.readouts[number])
        group_cells = []
        for cell in groups.cells[number]:
            edits = [in_prompt(edit, prompt.length) for edit in cell.edits]
            group_cells.append(cell_of(layout, edits, batch.length, readout.reach))
        standing = tuple(in_prompt(edit, prompt.length) for edit in groups.standing[number])
        batches.append(batch)
        readouts.append(readout)
        run_standing.append(standing)
        run_cells.append(with_standing(layout, group_cells, standing, batch.length))
    return RunGroups(tuple(batches), tuple(readouts), tuple(run_standing), tuple(run_cells))


def _append_answers(batch: Batch, answers: Slot) -> mx.array:
    """The prompts, each with all but the last token of its answer: no logits behind the last one are read.

    Shorter answers are filled up with their last token, to the length of the longest.
    """
    n_appended = max(map(len, answers)) - 1
    if n_appended == 0:
        return batch.tokens
    rows = []
    for answer in answers:
        filling = [answer[-1]] * n_appended
        row = [*answer[:-1], *filling]
        rows.append(row[:n_appended])
    appended = mx.array(rows, dtype=batch.tokens.dtype)
    return mx.concatenate([batch.tokens, appended], axis=1)


def plain_of(metrics: Sequence[Metric]) -> tuple[Metric, ...]:
    """The metrics of the prompt alone."""
    return tuple(metric for metric in metrics if not isinstance(metric, SequenceMetric))
