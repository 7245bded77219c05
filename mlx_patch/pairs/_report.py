"""`PairReport`: how a model does on pairs of prompts, before anything is patched."""

from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import override


@dataclass(frozen=True)
class PairReport:
    """How a model does on pairs of prompts.

    Attributes:
        metric: What is measured, in words.
        lengths: The tokens of the clean and the corrupted prompt, for each pair.
        clean: The metric on the clean prompts, where positive means that the answer is preferred.
        corrupted: The metric on the corrupted prompts.
        problems: What is wrong with each pair, in words; empty where nothing is.
    """

    metric: str
    lengths: tuple[tuple[int, int], ...]
    clean: tuple[float, ...]
    corrupted: tuple[float, ...]
    problems: tuple[str, ...]

    @property
    def failing(self) -> tuple[int, ...]:
        """The numbers of the pairs with which something is wrong."""
        return tuple(number for number, problem in enumerate(self.problems) if problem)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong with any pair."""
        return not self.failing

    @override
    def __str__(self) -> str:
        n, good = len(self.problems), len(self.problems) - len(self.failing)
        head = f"{good} of {n} pairs can be patched; {self.metric}: clean {_mean(self.clean)}, "
        rows = [("pair", "tokens", "clean", "corrupted", "")]
        for i, (size, clean, corrupted, problem) in enumerate(
            zip(self.lengths, self.clean, self.corrupted, self.problems, strict=True)
        ):
            tokens = str(size[0]) if size[0] == size[1] else f"{size[0]}/{size[1]}"
            rows.append((str(i), tokens, f"{clean:+.2f}", f"{corrupted:+.2f}", problem or "ok"))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = ["  ".join([*(row[c].rjust(widths[c]) for c in range(4)), row[4]]).rstrip() for row in rows]
        return "\n".join([f"{head}corrupted {_mean(self.corrupted)}", *lines])


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / max(1, len(values)):+.2f}"
