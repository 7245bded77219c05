"""`measure`: metrics of one patched run, those of answers of several tokens as well."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from mlx_patch.errors import KindError
from mlx_patch.execution import measure_cells
from mlx_patch.execution.measurements import metrics_by_measurement
from mlx_patch.interventions import Edit
from mlx_patch.metrics import metrics_of
from mlx_patch.model import HookedModel, as_edits, require_hooked
from mlx_patch.sweeps._experiment import check_metrics, experiment_of_cells
from mlx_patch.sweeps._over import RequestedCells
from mlx_patch.tokens import Prompts, batches_of


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
    cell = as_edits(edits)
    batches = batches_of(tokens, model.tokenizer, model.d_vocab)
    metrics = metrics_of(metric, model.tokenizer)
    kinds = metrics_by_measurement(metrics)
    if len(kinds) > 1:
        kind = type(kinds[-1][1][0]).__name__
        raise KindError(f"`metric` must be one metric if it is {kind}. Got {len(metrics)}. Measure them one by one.")
    check_metrics(model, metrics, batches)
    requested = RequestedCells([[cell]], {"cell": ("edits",)}, {})
    [values] = measure_cells(experiment_of_cells(model, batches, metrics, requested, with_baseline=False))
    if isinstance(metric, list | tuple):
        return values
    return values[0]
