"""Several metrics side by side: their names, and their answers as tokens."""

from collections.abc import Sequence

from mlx_patch.errors import KindError, ValueRefusedError, listed
from mlx_patch.metrics._base import Metric, Tokenizer
from mlx_patch.metrics._registry import as_metric


def metrics_of(given: object, tokenizer: Tokenizer | None) -> tuple[Metric, ...]:
    """The metrics that a caller names, with their strings as token ids.

    Raises:
        KindError: There is none, or something that is none.
        ValueRefusedError: Two have the same name.
        TokenError: A string is not one token.
    """
    if given is None or (isinstance(given, list | tuple) and not given):
        came = "None" if given is None else "an empty list"
        raise KindError(
            f"`metric` must be a metric, or several. Got {came}. Write mp.metrics.LogitDiff(' Mary', ' John'), say."
        )
    many = given if isinstance(given, list | tuple) else (given,)
    metrics = tuple(as_metric(one).resolve(tokenizer) for one in many)
    refuse_same_names(metrics)
    return metrics


def refuse_same_names(metrics: Sequence[Metric]) -> None:
    """Refuse metrics that a result could not tell apart.

    Raises:
        ValueRefusedError: Two have the same name.
    """
    names = [one.name for one in metrics]
    if len(set(names)) < len(names):
        raise ValueRefusedError(
            f"`metric` must hold metrics of different names. Got {listed(names)}. Name them yourself: `name=`."
        )
