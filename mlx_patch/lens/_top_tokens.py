"""`TopTokens`: the most likely tokens at each site and position, which print as a table."""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
from typing_extensions import override

from mlx_patch.plot import visible

_ROWS = 40
"""How many rows a printed table has."""

_WIDTH = 120
"""How many characters wide a printed table is, at most."""


class TopTokens(NamedTuple):
    """The most likely tokens of a lens. Printed, it is a table: a row for each site and position.

    Attributes:
        ids: Token ids, the most likely first. Shape `(site, batch, pos, k)`.
        probs: Their probabilities. Shape `(site, batch, pos, k)`.
        texts: Their texts, in nested lists of that shape; empty without a tokenizer.
        sites: The name of each site.
        positions: The name of each position: its number, with its token where there is a tokenizer.

    Example:
        >>> probs = np.array([[[[0.5, 0.25]]], [[[0.75, 0.125]]]])
        >>> texts = [[[[" a", " Mary"]]], [[[" Mary", " a"]]]]
        >>> TopTokens(np.zeros((2, 1, 1, 2), int), probs, texts, ("resid_post 0", "resid_post 1"), ("7 ␣to",))
                      1st        2nd
        7 ␣to
        resid_post 0  ␣a 0.50    ␣Mary 0.25
        resid_post 1  ␣Mary 0.75 ␣a 0.12
    """

    ids: np.ndarray
    probs: np.ndarray
    texts: list
    sites: tuple[str, ...] = ()
    positions: tuple[str, ...] = ()

    @override
    def __repr__(self) -> str:
        lines = list(self._lines())
        table = _in_columns(lines[: _ROWS + 1])
        if len(lines) > _ROWS + 1:
            table += f"\n... and {len(lines) - _ROWS - 1} rows more: choose fewer sites or positions, or read `texts`"
        return table

    def _lines(self) -> Iterator[list[str]]:
        """The table, row by row: a heading for each prompt and position, and beneath it the sites."""
        n_sites, n_prompts, n_positions, k = self.ids.shape
        yield ["", *map(_ordinal, range(1, k + 1))]
        sites = self.sites or tuple(map("site {}".format, range(n_sites)))
        positions = self.positions or tuple(map("position {}".format, range(n_positions)))
        for prompt, pos in product(range(n_prompts), range(n_positions)):
            heading = positions[pos]
            if n_prompts > 1:
                heading = f"prompt {prompt}, {heading}"
            yield [heading]
            for site, name in enumerate(sites):
                yield [name, *(self._cell(site, prompt, pos, rank) for rank in range(k))]

    def _cell(self, site: int, prompt: int, pos: int, rank: int) -> str:
        index = (site, prompt, pos, rank)
        text = str(self.ids[index])
        if self.texts:
            text = visible(self.texts[site][prompt][pos][rank])
        return f"{text} {self.probs[index]:.2f}"


def _ordinal(number: int) -> str:
    """A rank in words.

    Example:
        >>> [_ordinal(number) for number in (1, 2, 3, 4, 11, 21)]
        ['1st', '2nd', '3rd', '4th', '11th', '21st']
    """
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    if number % 100 in (11, 12, 13):
        ending = "th"
    return f"{number}{ending}"


def _in_columns(lines: list[list[str]]) -> str:
    """Cells in columns as wide as their widest; a line of one cell is a heading and makes no column wider."""
    columns = zip(*(line for line in lines if len(line) > 1), strict=True)
    widths = [max(map(len, column)) for column in columns]
    widths[0] += 1
    rows = []
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        rows.append(" ".join(cells).rstrip()[:_WIDTH])
    return "\n".join(rows)
