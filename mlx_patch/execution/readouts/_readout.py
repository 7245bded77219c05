"""`Readout`: the metrics of a sweep, and the positions whose logits they read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from mlx_patch.errors import SelectionError
from mlx_patch.metrics import Metric, MultiPositionMetric
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
        if self.at is None:
            return 0
        return self.at[0]

    @property
    def reach(self) -> int:
        """The latest position at which a run may begin: the last that is read; 0 where a metric reads all."""
        if self.at is None:
            return 0
        return self.at[-1]

    def since(self, start: int) -> "Readout":
        """The readout of a run that begins at a position."""
        if self.at is None:
            return self
        later = tuple(pos for pos in self.at if pos >= start)
        return replace(self, at=later)

    def tokens(self) -> tuple[int, ...] | None:
        """The token ids whose logits decide all metrics; None where those of all tokens do."""
        ids: set[int] = set()
        for metric in self.metrics:
            metric_ids = metric.reads_tokens()
            if metric_ids is None or self.at is None:
                return None
            ids.update(metric_ids)
        return tuple(sorted(ids)) or None

    def on_tokens(self, ids: Sequence[int], n_rows: int, n_cells: int) -> "Readout":
        """The same metrics for logits of some tokens alone, of cells below each other with so many rows each."""
        rows = [*range(n_rows)] * n_cells
        metrics = [metric.on_tokens(ids) for metric in self.metrics]
        return replace(self, metrics=tuple(metric.for_rows(rows, n_rows) for metric in metrics))

    def whole(self) -> "Readout":
        """The same metrics, with all positions unembedded."""
        return replace(self, at=None)

    def measure(self, logits: mx.array, length: int) -> mx.array:
        """The values of all metrics, from the logits at the positions that are read.

        Args:
            logits: Of one run. Shape `(batch, len(at), d_vocab)`.
            length: The positions of the prompt.
        Returns:
            Unevaluated. Shape `(metric, batch)`.
        """
        if not self.metrics:
            return mx.zeros((0, logits.shape[0]))
        return mx.stack([self._measure_metric(metric, logits, length) for metric in self.metrics])

    def _measure_metric(self, metric: Metric, logits: mx.array, length: int) -> mx.array:
        if self.prompt is not None:
            length = self.prompt
        if isinstance(metric, MultiPositionMetric):
            indices = [self._index(pos) for pos in metric.absolute(length)]
            return metric.of_rows(logits[:, mx.array(indices)])
        if metric.pos is None or self.at is None:
            if self.prompt is not None:
                logits = logits[:, :length]
            return metric(logits)
        index = self._index(metric.pos % length)
        return metric.at_last()(logits[:, index : index + 1])

    def _index(self, pos: int) -> int:
        """The index of a position among those that are unembedded."""
        if self.at is None:
            return pos
        return self.at.index(pos)


def readout_of(metrics: Sequence[Metric], length: int) -> Readout:
    """The readout of some metrics of a prompt.

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
    positions: set[int] = set()
    reads_all = False
    for metric in metrics:  # all of them: each refuses positions that the prompt does not have
        metric_positions = metric.reads(length)
        if metric_positions is None:
            reads_all = True
        else:
            positions.update(metric_positions)
    if reads_all:
        return Readout(tuple(metrics), None)
    return Readout(tuple(metrics), tuple(sorted(positions)))


def count_examples(batches: Sequence[Batch]) -> int:
    """The number of prompts in all batches."""
    return sum(len(batch.examples) for batch in batches)


def readouts_by_batch(metrics: Sequence[Metric], batches: Sequence[Batch]) -> tuple[Readout, ...]:
    """The readout of each group of prompts; a metric with a value for each example keeps those of the group."""
    n_examples = count_examples(batches)
    readouts = []
    for batch in batches:
        batch_metrics = [metric.for_rows(batch.examples, n_examples) for metric in metrics]
        readouts.append(readout_of(batch_metrics, batch.length))
    return tuple(readouts)
