"""`AnswerLogProb`: the log-probability of an answer that was appended to the prompt."""

from dataclasses import dataclass

import mlx.core as mx
from typing_extensions import override

from mlx_patch.metrics import MultiPositionMetric, Slot, log_softmax_at


@dataclass(frozen=True, repr=False)
class AnswerLogProb(MultiPositionMetric):
    """Log-probability of what is appended to each row, in nats.

    Attributes:
        answers: The tokens of each row's answer.
        prompt: The positions of the prompt.
    """

    answers: Slot
    prompt: int

    @override
    def positions(self, length: int) -> tuple[int, ...]:
        """Each position before a token of the longest answer."""
        del length  # of the prompt, which the answers are behind
        return tuple(range(self.prompt - 1, self.prompt - 1 + max(map(len, self.answers))))

    @override
    def absolute(self, length: int) -> tuple[int, ...]:
        return self.positions(length)

    @override
    def measure_rows(self, rows: mx.array) -> mx.array:
        total = mx.zeros((rows.shape[0],))
        for step in range(rows.shape[1]):
            ids = mx.array([answer[min(step, len(answer) - 1)] for answer in self.answers])
            counts = mx.array([float(step < len(answer)) for answer in self.answers])
            own = log_softmax_at(rows[:, step], ids[:, None])[:, 0]
            total = total + mx.where(counts > 0, own, 0.0)
        return total
