"""`Reading`: the metrics of a sweep, and the positions whose logits they read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from mlx_patch.errors import KindError, SelectionError, ValueRefusedError, listed
from mlx_patch.metrics import GenerateMatches, Metric, MultiPositionMetric, Tokenizer, as_metric


@dataclass(frozen=True)
class Reading:
    """The metrics of a sweep, and the positions whose logits they read.

    Attributes:
        metrics: One or several.
        at: The absolute positions that are unembedded, in order; None where a metric reads all.
        prompt: The positions of the prompt, where an answer is behind it; None where the run is the prompt.
    """

    metrics: tuple[Metric, ...]
    at: tuple[int, ...] | None
    prompt: int | None = None

    @property
    def first(self) -> int:
        """The first position that is read."""
        return 0 if self.at is None else self.at[0]

    @property
    def reach(self) -> int:
        """A position behind which a run need not begin: the last that is read, or the first where all are."""
        return 0 if self.at is None else self.at[-1]

    def since(self, start: int) -> "Reading":
        """What is read of a run that begins at a position."""
        return self if self.at is None else replace(self, at=tuple(pos for pos in self.at if pos >= start))

    def whole(self) -> "Reading":
        """The same metrics, with all positions unembedded."""
        return replace(self, at=None)

    def measure(self, logits: mx.array, length: int) -> mx.array:
        """Every metric, of the logits at the positions that are read.

        Args:
            logits: Of one run. Shape `(batch, len(at), d_vocab)`.
            length: The positions of the prompt.
        Returns:
            Unevaluated. Shape `(metric, batch)`.
        """
        if not self.metrics:
            return mx.zeros((0, logits.shape[0]))
        return mx.stack([self._one(metric, logits, length) for metric in self.metrics])

    def _one(self, metric: Metric, logits: mx.array, length: int) -> mx.array:
        length = length if self.prompt is None else self.prompt
        if isinstance(metric, MultiPositionMetric):
            return metric.of_rows(logits[:, mx.array([self._place(pos) for pos in metric.absolute(length)])])
        if metric.pos is None or self.at is None:
            return metric(logits if self.prompt is None else logits[:, :length])
        index = self._place(metric.pos % length)
        return metric.at_last()(logits[:, index : index + 1])

    def _place(self, pos: int) -> int:
        """Where a position is among those that are unembedded."""
        return pos if self.at is None else self.at.index(pos)


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


def reading_of(metrics: Sequence[Metric], length: int) -> Reading:
    """What some metrics read of a prompt.

    Raises:
        SelectionError: A metric reads a position that the prompt does not have.
    """
    if not metrics:
        return Reading((), (length - 1,))
    for metric in metrics:
        if metric.pos is not None and not -length <= metric.pos < length:
            raise SelectionError(
                f"`pos` of {metric.name} must lie in {-length} to {length - 1}, the {length} positions of the prompt. "
                f"Got {metric.pos}."
            )
    read = [_read_by(metric, length) for metric in metrics]
    if None in read:
        return Reading(tuple(metrics), None)
    return Reading(tuple(metrics), tuple(sorted({pos for own in read if own is not None for pos in own})))


def _read_by(metric: Metric, length: int) -> tuple[int, ...] | None:
    """The positions whose logits a metric reads; None is all. What is written goes on from the last."""
    if isinstance(metric, GenerateMatches):
        return (length - 1,)
    if isinstance(metric, MultiPositionMetric):
        return metric.absolute(length)
    return None if metric.pos is None else (metric.pos % length,)
