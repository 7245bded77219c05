"""`Readout`: the metrics of a sweep, and the positions whose logits they read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from mlx_patch.errors import SelectionError
from mlx_patch.metrics import GenerateMatches, Metric, MultiPositionMetric
from mlx_patch.tokens import Batch


@dataclass(frozen=True)
class Readout:
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

    def since(self, start: int) -> "Readout":
        """What is read of a run that begins at a position."""
        return self if self.at is None else replace(self, at=tuple(pos for pos in self.at if pos >= start))

    def whole(self) -> "Readout":
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


def readout_of(metrics: Sequence[Metric], length: int) -> Readout:
    """What some metrics read of a prompt.

    Raises:
        SelectionError: A metric reads a position that the prompt does not have.
    """
    if not metrics:
        return Readout((), (length - 1,))
    for metric in metrics:
        if metric.pos is not None and not -length <= metric.pos < length:
            raise SelectionError(
                f"`pos` of {metric.name} must lie in {-length} to {length - 1}, the {length} positions of the prompt. "
                f"Got {metric.pos}."
            )
    read = [_read_by(metric, length) for metric in metrics]
    if None in read:
        return Readout(tuple(metrics), None)
    return Readout(tuple(metrics), tuple(sorted({pos for own in read if own is not None for pos in own})))


def _read_by(metric: Metric, length: int) -> tuple[int, ...] | None:
    """The positions whose logits a metric reads; None is all. What is written goes on from the last."""
    if isinstance(metric, GenerateMatches):
        return (length - 1,)
    if isinstance(metric, MultiPositionMetric):
        return metric.absolute(length)
    return None if metric.pos is None else (metric.pos % length,)


def count_examples(batches: Sequence[Batch]) -> int:
    """How many prompts there are in all batches."""
    return sum(len(batch.examples) for batch in batches)


def readouts_by_batch(metrics: Sequence[Metric], batches: Sequence[Batch]) -> tuple[Readout, ...]:
    """What is read of each group: of metrics that hold something for each example, that of its own."""
    n = count_examples(batches)
    return tuple(readout_of([one.for_rows(batch.examples, n) for one in metrics], batch.length) for batch in batches)
