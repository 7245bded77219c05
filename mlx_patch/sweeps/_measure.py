"""`measure`: metrics of one patched run, those of answers of several tokens as well."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mlx_patch.errors import KindError
from mlx_patch.execution.cells import may_follow_the_norm
from mlx_patch.execution.measurements import Measurement, metrics_by_measurement
from mlx_patch.execution.readouts import (
    AnswerRuns,
    Readout,
    answer_runs,
    count_examples,
    in_prompt,
    plain_of,
    readouts_by_batch,
    with_answers,
)
from mlx_patch.interventions import Edit
from mlx_patch.metrics import metrics_of
from mlx_patch.model import HookedModel, SelectorResolver, as_edits, require_hooked
from mlx_patch.sweeps._per_prompt import refuse_rows
from mlx_patch.tokens import Batch, Prompts, batches_of

MeasuredRun = tuple[Batch, Readout, Sequence[Edit]]
"""The rows of one forward pass, what metrics read of it, and its edits."""


def measure(model: HookedModel, tokens: Prompts, metric: Any, edits: Iterable[Edit] = ()) -> np.ndarray:
    """One or several metrics on one run with edits, an answer appended where a metric needs it.

    Args:
        model: The model.
        tokens: As of `sweep`: a prompt, a batch, or a list of prompts.
        metric: A metric or a list of them, as of `sweep`.
        edits: As of `HookedModel.run`, the same for all prompts. They act in the prompt, and not in what is appended.
    Returns:
        The numbers, in float32. Shape `(example,)`, or `(metric, example)` for a list.
    Raises:
        PatchError: As in `HookedModel.run` and `sweep`.
    Example:
        `mp.measure(model, "The capital of France is", mp.metrics.SequenceLogProb(" Paris"))`
    """
    require_hooked("model", model)
    edit_list = as_edits(edits)
    batches = batches_of(tokens, model.tokenizer, model.d_vocab)
    refuse_rows(edit_list, several=any(batch.alone for batch in batches))
    metrics = metrics_of(metric, model.tokenizer)
    kinds = metrics_by_measurement(metrics)
    if len(kinds) > 1:
        kind = type(kinds[-1][1][0]).__name__
        raise KindError(f"`metric` must be one metric if it is {kind}. Got {len(metrics)}. Measure them one by one.")
    readouts = readouts_by_batch(plain_of(metrics), batches)
    if any(may_follow_the_norm(model.layout, edit) for edit in edit_list):
        readouts = tuple(readout.whole() for readout in readouts)
    edits_by_batch = []
    for batch in batches:
        resolver = SelectorResolver(batch.tokens, model.tokenizer, alone=batch.alone)
        edits_by_batch.append(resolver.edits(edit_list))
    answers = answer_runs(metrics, batches, model.d_vocab)
    n_examples = count_examples(batches)
    measurement = kinds[0][0]
    if answers is None:
        runs = zip(batches, readouts, edits_by_batch, strict=True)
        values = _measure_runs(model, measurement, runs, (len(metrics), n_examples))
    else:
        runs = _make_runs_with_answers(model, answers, readouts, edits_by_batch)
        shape = (answers.answers_per_run + len(answers.plain), n_examples * len(answers.runs))
        values = answers.combined(_measure_runs(model, measurement, runs, shape))
    if isinstance(metric, list | tuple):
        return values
    return values[0]


def _make_runs_with_answers(
    model: HookedModel, answers: AnswerRuns, readouts: Sequence[Readout], edits_by_batch: Sequence[Sequence[Edit]]
) -> list[MeasuredRun]:
    """The runs of prompts with appended answers; the edits still act in the prompt alone."""
    no_cells = [()] * len(readouts)
    _, run_readouts, _ = with_answers(model.layout, answers, readouts, no_cells)
    runs = []
    for (number, _, batch), readout in zip(answers.groups(), run_readouts, strict=True):
        prompt_length = answers.batches[number].length
        prompt_edits = [in_prompt(edit, prompt_length) for edit in edits_by_batch[number]]
        runs.append((batch, readout, prompt_edits))
    return runs


def _measure_runs(
    model: HookedModel, measurement: Measurement, runs: Iterable[MeasuredRun], shape: tuple[int, int]
) -> np.ndarray:
    """The numbers of all runs, NaN where no run has a row. Shape `(metric, row)`, which is `shape`."""
    numbers = np.full(shape, np.nan, np.float32)
    for batch, readout, edits in runs:
        batch_numbers, _ = measurement.measure(model, batch.tokens, readout, list(edits))
        numbers[:, list(batch.examples)] = np.array(batch_numbers)
    return numbers
