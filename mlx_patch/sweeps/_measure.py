"""`measure`: metrics on one edited run, those of answers of several tokens as well."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mlx_patch.errors import KindError
from mlx_patch.execution.cells import may_follow_the_norm
from mlx_patch.execution.readouts import answer_runs, in_prompt, match_rate, plain_of, readouts_by_batch, with_answers
from mlx_patch.interventions import Edit
from mlx_patch.metrics import GenerateMatches, Metric, metrics_of
from mlx_patch.model import HookedModel, SelectorResolver, as_edits, require_hooked, run
from mlx_patch.sweeps._per_prompt import refuse_rows
from mlx_patch.tokens import Batch, Prompts, batches_of


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
    given = as_edits(edits)
    batches = batches_of(tokens, model.tokenizer, model.d_vocab)
    refuse_rows(given, several=any(batch.alone for batch in batches))
    metrics = metrics_of(metric, model.tokenizer)
    n = sum(len(batch.examples) for batch in batches)
    if any(isinstance(one, GenerateMatches) for one in metrics):
        return _spoken(model, batches, metric, metrics, given, n)
    readouts = readouts_by_batch(plain_of(metrics), batches)
    if any(may_follow_the_norm(model.layout, edit) for edit in given):
        readouts = tuple(readout.whole() for readout in readouts)
    own = [SelectorResolver(batch.tokens, model.tokenizer, alone=batch.alone).edits(given) for batch in batches]
    answers = answer_runs(metrics, batches, model.d_vocab)
    if answers is None:
        found = np.full((len(metrics), n), np.nan, np.float32)
        groups = [(batch, readout, edits) for batch, readout, edits in zip(batches, readouts, own, strict=True)]
    else:
        found = np.full((answers.most + len(answers.plain), n * len(answers.runs)), np.nan, np.float32)
        groups = []
        more = with_answers(model.layout, answers, readouts, [()] * len(batches))
        for (number, _, batch), readout in zip(answers.groups(), more["readouts"], strict=True):
            inside = [in_prompt(edit, batches[number].length) for edit in own[number]]
            groups.append((batch, readout, inside))
    for batch, readout, inside in groups:
        _measured(model, batch, readout, inside, found)
    values = found if answers is None else answers.combined(found)
    return values if isinstance(metric, list | tuple) else values[0]


def _spoken(
    model: HookedModel,
    batches: Sequence[Batch],
    metric: Any,
    metrics: Sequence[Metric],
    edits: Sequence[Edit],
    n: int,
) -> np.ndarray:
    """One metric after the other, where one of them lets the model write."""
    if len(metrics) > 1:
        raise KindError(
            f"`metric` must be one metric where it is GenerateMatches. Got {len(metrics)}. Measure them one by one."
        )
    values, [rule] = np.full(n, np.nan, np.float32), metrics
    assert isinstance(rule, GenerateMatches)
    for batch in batches:
        placed = SelectorResolver(batch.tokens, model.tokenizer, alone=batch.alone).edits(edits)
        values[list(batch.examples)] = match_rate(model, batch.tokens, rule, placed)[0]
    return values[None] if isinstance(metric, list | tuple) else values


def _measured(model: HookedModel, batch: Batch, readout: Any, edits: Iterable[Edit], into: np.ndarray) -> None:
    logits = run(model.layout, batch.tokens, edits, logits_at=readout.at).logits
    into[:, list(batch.examples)] = np.array(readout.measure(logits, batch.length))
