"""`PairReport`: which pairs ask a model what they are meant to ask, and which do not."""

from dataclasses import dataclass
from math import isfinite, nan

import numpy as np
from typing_extensions import override

from ._pair import PromptPair

_LONGEST = 48


@dataclass(frozen=True)
class PairCheckRow:
    """What the check found of one pair.

    Attributes:
        label: The end of the clean prompt, answer and foil, for the table.
        length: Tokens of the clean and of the corrupted prompt; (0, 0) where they do not resolve.
        clean: The metric of the clean prompt; NaN if it was not run.
        corrupted: The metric of the corrupted prompt; NaN if it was not run.
        problem: Why the pair fails; empty where it passes.
    """

    label: str
    length: tuple[int, int] = (0, 0)
    clean: float = nan
    corrupted: float = nan
    problem: str = ""

    @property
    def gap(self) -> float:
        """The clean number minus the corrupted one: what patching can bring back."""
        return self.clean - self.corrupted


@dataclass(frozen=True)
class PairReport:
    """What a check found: a table when it is printed.

    Attributes:
        pairs: What was checked.
        rows: What was found, one a pair.
        unit: Of the metric: nats, or probability.
        name: What the pairs are.
    """

    pairs: tuple[PromptPair, ...]
    rows: tuple[PairCheckRow, ...]
    unit: str = "nats"
    name: str = ""

    @property
    def ok(self) -> bool:
        """Whether every pair passed."""
        return not self.failing

    @property
    def failing(self) -> tuple[int, ...]:
        """The pairs that failed, by number from 0."""
        return tuple(n for n, row in enumerate(self.rows) if row.problem)

    @property
    def share(self) -> float:
        """The share of pairs that passed, from 0 to 1."""
        return 1 - len(self.failing) / len(self.rows)

    @property
    def clean(self) -> np.ndarray:
        """The metric of each clean prompt, in `unit`. Shape `(pairs,)`."""
        return np.array([row.clean for row in self.rows])

    @property
    def corrupted(self) -> np.ndarray:
        """The metric of each corrupted prompt, in `unit`. Shape `(pairs,)`."""
        return np.array([row.corrupted for row in self.rows])

    @property
    def gap(self) -> np.ndarray:
        """`clean - corrupted`, in `unit`. Shape `(pairs,)`."""
        return self.clean - self.corrupted

    @override
    def __str__(self) -> str:
        passed = len(self.rows) - len(self.failing)
        head = f"{self.name or 'pairs'}: {passed} of {len(self.rows)} pass. Answer minus foil, in {self.unit}."
        titles = ("pair", "clean prompt -> answer / foil", "clean", "corrupted", "gap", "")
        table = [titles, *(_cells(n, row) for n, row in enumerate(self.rows))]
        widths = [max(len(cells[i]) for cells in table) for i in range(5)]
        return "\n".join([head, *(_line(cells, widths) for cells in table)])


def _cells(number: int, row: PairCheckRow) -> tuple[str, ...]:
    numbers = (f"{value:.2f}" if isfinite(value) else "-" for value in (row.clean, row.corrupted, row.gap))
    return str(number), row.label, *numbers, f"FAILS: {row.problem}" if row.problem else "passes"


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    number, label, *values, verdict = cells
    sized = (value.rjust(width) for value, width in zip(values, widths[2:], strict=True))
    return "  ".join([number.rjust(widths[0]), label.ljust(widths[1]), *sized, verdict]).rstrip()


def shortened(text: str) -> str:
    """The end of a text on one line, for a cell of the table."""
    line = text.encode("unicode_escape").decode()
    return line if len(line) <= _LONGEST else f"...{line[-_LONGEST:]}"
