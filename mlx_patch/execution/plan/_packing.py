"""From the cells of a sweep to the passes that compute them. Pure: it sees no model and no array."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import ClassVar, Protocol, runtime_checkable

from mlx_patch.execution.plan._plan import Pass, Plan, PromptGroup, token_layers_of

MOST_ROWS = 128
"""Cells in one pass at most. More would cost memory and save no time: the weights are read once a pass."""

MOST_TOKENS = 4096
"""Rows times positions in one pass at most, for the same reason."""


PIECE = 256
"""Positions of a prompt that run at once, at most, where it may be split. Fewer would not fill a matrix product."""


@runtime_checkable
class CellStart(Protocol):
    """What a plan knows of a cell: where it begins to differ from the unedited run."""

    @property
    def entry(self) -> int | None:
        """The first block that differs; the number of blocks for the final norm; None where nobody knows."""
        ...

    @property
    def start(self) -> int:
        """The first position that differs."""
        ...


@dataclass(frozen=True)
class Bounds:
    """How large a pass may get.

    Attributes:
        rows: Cells.
        tokens: Rows times positions; one cell may have more.
        memory: Bytes, estimated; one cell may have more. None is no bound.
        piece: Positions of a prompt that run at once, where it may be split.
    """

    rows: int = MOST_ROWS
    tokens: int = MOST_TOKENS
    memory: int | None = None
    piece: int = PIECE


class PassShape(Protocol):
    """What a plan knows of an executor: what its passes look like.

    Attributes:
        name: What `executor=` calls it.
        description: What it does, in words.
        one_cell_a_pass: Whether each cell runs by itself, over the whole prompt.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    one_cell_a_pass: ClassVar[bool]

    def entry(self, cell: CellStart) -> int:
        """The block at which the row of a cell enters."""
        ...


MemoryOf = Callable[[PromptGroup, Pass], int]
"""What a pass takes beside the weights, in bytes."""


def make_plan(
    cells: Sequence[Sequence[CellStart]],
    groups: Sequence[PromptGroup],
    n_layers: int,
    executor: PassShape,
    bounds: Bounds,
    memory_of: MemoryOf,
    why: str = "",
) -> Plan:
    """The passes that compute some cells.

    Args:
        cells: For each group of prompts, every cell.
        groups: The prompts.
        n_layers: The model's blocks.
        executor: How passes are run.
        bounds: How large a pass may get.
        memory_of: What a pass takes beside the weights, in bytes.
        why: Why no cheaper executor could be taken.
    """
    pairs = list(zip(groups, cells, strict=True))
    passes = [
        one
        for number, (group, own) in enumerate(pairs)
        for one in _passes(number, group, own, executor, bounds, memory_of)
    ]
    unedited = sum(token_layers_of(group, n_layers) for group in groups)
    one_each = sum(token_layers_of(group, n_layers) * len(own) for group, own in pairs)
    return Plan(
        executor=executor.name,
        how=executor.description,
        why=why,
        n_layers=n_layers,
        groups=tuple(groups),
        passes=tuple(passes),
        minimum=minimum_of(cells, groups, n_layers),
        reference=unedited + one_each,
        piece=bounds.piece,
        memory=max((memory_of(groups[one.group], one) for one in passes), default=0),
    )


def minimum_of(cells: Sequence[Sequence[CellStart]], groups: Sequence[PromptGroup], n_layers: int) -> int:
    """The token-layers of the unedited runs, and of what of each cell lies above and behind its start."""
    pairs = list(zip(groups, cells, strict=True))
    unedited = sum(token_layers_of(group, n_layers) for group in groups)
    return unedited + sum(_least(cell, group, n_layers) for group, own in pairs for cell in own)


def _least(cell: CellStart, group: PromptGroup, n_layers: int) -> int:
    """The token-layers above and behind what a cell edits."""
    return group.batch * (group.length - cell.start) * (n_layers - (cell.entry or 0))


def _passes(
    number: int,
    group: PromptGroup,
    cells: Sequence[CellStart],
    executor: PassShape,
    bounds: Bounds,
    memory_of: MemoryOf,
) -> list[Pass]:
    if executor.one_cell_a_pass:
        return [Pass(number, 0, (i,), (0,)) for i in range(len(cells))]
    entry = [executor.entry(cell) for cell in cells]
    order = sorted(range(len(cells)), key=lambda i: (cells[i].start, entry[i], i))
    passes: list[Pass] = []
    for start, together in groupby(order, key=lambda i: cells[i].start):
        one = Pass(number, start, (), ())
        for i in together:
            more = replace(one, cells=(*one.cells, i), entries=(*one.entries, entry[i]))
            if one.cells and not _fits(more, group, bounds, memory_of):
                passes.append(one)
                more = Pass(number, start, (i,), (entry[i],))
            one = more
        passes.append(one)
    return passes


def _fits(one: Pass, group: PromptGroup, bounds: Bounds, memory_of: MemoryOf) -> bool:
    tokens = len(one.cells) * group.batch * (group.length - one.start)
    if len(one.cells) > bounds.rows or tokens > bounds.tokens:
        return False
    return bounds.memory is None or memory_of(group, one) <= bounds.memory
