"""`measure`: metrics on one edited run, those of answers of several tokens as well."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mlx_patch.errors import KindError
from mlx_patch.interventions import Edit
from mlx_patch.metrics import GenerateMatches, Metric
from mlx_patch.model import HookedModel, Placing, as_edits, require_hooked, run
from mlx_patch.sweeps._cells import may_follow_the_norm
from mlx_patch.sweeps._forced import expanded, expansion_of, in_prompt, plain_of
from mlx_patch.sweeps._prompts import Prompts, batches_of
from mlx_patch.sweeps._reading import metrics_of
from mlx_patch.sweeps._setup import readings_of, refuse_rows
from mlx_patch.sweeps._speaking import spoken
from mlx_patch.tokens import Batch


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
    readings = readings_of(plain_of(metrics), batches)
    if any(may_follow_the_norm(model.layout, edit) for edit in given):
        readings = tuple(reading.whole() for reading in readings)
    own = [Placing(batch.tokens, model.tokenizer, alone=batch.alone).edits(given) for batch in batches]
    expansion = expansion_of(metrics, batches, model.d_vocab)
    if expansion is None:
        found = np.full((len(metrics), n), np.nan, np.float32)
        groups = [(batch, reading, edits) for batch, reading, edits in zip(batches, readings, own, strict=True)]
    else:
        found = np.full((expansion.most + len(expansion.plain), n * len(expansion.runs)), np.nan, np.float32)
        groups = []
        more = expanded(model.layout, expansion, readings, [()] * len(batches))
        for (number, _, batch), reading in zip(expansion.groups(), more["readings"], strict=True):
            inside = [in_prompt(edit, batches[number].length) for edit in own[number]]
            groups.append((batch, reading, inside))
    for batch, reading, inside in groups:
        _measured(model, batch, reading, inside, found)
    values = found if expansion is None else expansion.combined(found)
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
        placed = Placing(batch.tokens, model.tokenizer, alone=batch.alone).edits(edits)
        values[list(batch.examples)] = spoken(model, batch.tokens, rule, placed)[0]
    return values[None] if isinstance(metric, list | tuple) else values


def _measured(model: HookedModel, batch: Batch, reading: Any, edits: Iterable[Edit], into: np.ndarray) -> None:
    logits = run(model.layout, batch.tokens, edits, logits_at=reading.at).logits
    into[:, list(batch.examples)] = np.array(reading.measure(logits, batch.length))
