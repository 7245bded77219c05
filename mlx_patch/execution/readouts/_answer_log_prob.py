"""`AnswerLogProb`: the log-probability of an answer that was appended to the prompt."""

from dataclasses import dataclass

import mlx.core as mx
from typing_extensions import override

from mlx_patch.metrics import MultiPositionMetric, Slot, log_softmax_at


@dataclass(frozen=True, repr=False)
class AnswerLogProb(MultiPositionMetric):
    """Log-probability of the answer that is appended to each row, in nats.

    Attributes:
        answers: The tokens of each row's answer.
        prompt: The positions of the prompt.
    """

    answers: Slot
    prompt: int

    @override
    def positions(self, length: int) -> tuple[int, ...]:
        """Each position before a token of the longest answer."""
        del length  # of the prompt, which `prompt` has as well
        longest = max(map(len, self.answers))
        first = self.prompt - 1
        return tuple(range(first, first + longest))

    @override
    def absolute(self, length: int) -> tuple[int, ...]:
        return self.positions(length)

    @override
    def measure_rows(self, rows: mx.array) -> mx.array:
        total = mx.zeros((rows.shape[0],))
        for step in range(rows.shape[1]):
            # An answer that has ended repeats its last token, and adds nothing.
            ids = mx.array([answer[min(step, len(answer) - 1)] for answer in self.answers])
            is_in_answer = mx.array([step < len(answer) for answer in self.answers])
            log_probs = log_softmax_at(rows[:, step], ids[:, None])[:, 0]
            total = total + mx.where(is_in_answer, log_probs, 0.0)
        return total
