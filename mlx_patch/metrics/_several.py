"""Several metrics together: their names, and their answers as tokens."""

from collections.abc import Sequence

from mlx_patch.errors import KindError, ValueRefusedError, listed
from mlx_patch.metrics._base import Metric, Tokenizer
from mlx_patch.metrics._registry import as_metric


def metrics_of(metric: object, tokenizer: Tokenizer | None) -> tuple[Metric, ...]:
    """The metrics of a `metric` argument, with token ids for their strings.

    Args:
        metric: What `as_metric` takes, or a list of such.
        tokenizer: For strings.
    Raises:
        KindError: There is none, or something that is none.
        ValueRefusedError: Two have the same name.
        TokenError: A string is not one token.
    """
    objects = metric
    if not isinstance(objects, list | tuple):
        objects = (metric,)
    if metric is None or not objects:
        argument = "an empty list"
        if metric is None:
            argument = "None"
        raise KindError(
            f"`metric` must be a metric, or several. Got {argument}. Write mp.metrics.LogitDiff(' Mary', ' John'), say."
        )
    metrics = tuple(as_metric(obj).resolve(tokenizer) for obj in objects)
    refuse_same_names(metrics)
    return metrics


def refuse_same_names(metrics: Sequence[Metric]) -> None:
    """Refuse metrics that a result could not tell apart.

    Raises:
        ValueRefusedError: Two have the same name.
    """
    names = [metric.name for metric in metrics]
    if len(set(names)) < len(names):
        raise ValueRefusedError(
            f"`metric` must hold metrics of different names. Got {listed(names)}. Give them different names with "
            "`name=`."
        )
