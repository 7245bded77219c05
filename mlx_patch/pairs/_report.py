"""`PairReport`: the pairs that passed a check on a model, and those that failed."""

from dataclasses import dataclass
from math import isfinite, nan

import numpy as np
from typing_extensions import override

from ._pages import report_page
from ._pair import PromptPair

_LONGEST = 48

_COLUMNS = ("pair", "clean prompt -> answer / foil", "clean", "corrupted", "gap", "")


@dataclass(frozen=True)
class PairCheckRow:
    """The check of one pair.

    Attributes:
        label: The end of the clean prompt, answer and foil, for the table.
        length: Tokens of the clean and of the corrupted prompt; (0, 0) if they do not resolve.
        clean: The metric of the clean prompt; NaN if it was not run.
        corrupted: The metric of the corrupted prompt; NaN if it was not run.
        problem: Why the pair fails; empty if it passes.
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
    """The check of several pairs, which prints as a table.

    Attributes:
        pairs: The pairs.
        rows: The check of each.
        unit: Of the metric: nats, or probability.
        name: The name of the pairs.
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

    @property
    def _heading(self) -> str:
        passed = len(self.rows) - len(self.failing)
        return f"{self.name or 'pairs'}: {passed} of {len(self.rows)} pass. Answer minus foil, in {self.unit}."

    @property
    def _table(self) -> list[tuple[str, ...]]:
        return [_COLUMNS, *(_cells(number, row) for number, row in enumerate(self.rows))]

    def _repr_html_(self) -> str:
        head, *rows = self._table
        return report_page(self._heading, head, rows)

    @override
    def __str__(self) -> str:
        table = self._table
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [_line(cells, widths) for cells in table]
        return "\n".join([self._heading, *lines])


def _cells(number: int, row: PairCheckRow) -> tuple[str, str, str, str, str, str]:
    verdict = "passes"
    if row.problem:
        verdict = f"FAILS: {row.problem}"
    return str(number), row.label, _number_text(row.clean), _number_text(row.corrupted), _number_text(row.gap), verdict


def _number_text(value: float) -> str:
    if not isfinite(value):
        return "-"
    return f"{value:.2f}"


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    """The cells in columns: the label to the left, numbers to the right, and the verdict, which ends the line."""
    aligned = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
    aligned[1] = cells[1].ljust(widths[1])
    aligned[-1] = cells[-1]
    return "  ".join(aligned).rstrip()


def shortened(text: str) -> str:
    """The end of a text on one line, for a cell of the table."""
    line = text.encode("unicode_escape").decode()
    if len(line) <= _LONGEST:
        return line
    return f"...{line[-_LONGEST:]}"
