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
    """What a plan knows of a cell: where it begins to differ from the unpatched run."""

    @property
    def entry(self) -> int | None:
        """The first block that differs; the number of blocks for the final norm; None where it is unknown."""
        ...

    @property
    def start(self) -> int:
        """The first position that differs."""
        ...

    @property
    def runs_modules_again(self) -> bool:
        """Whether its edits run modules a second time. It then shares passes with such cells alone."""
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


@runtime_checkable
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
    passes: list[Pass] = []
    for index, (group, group_cells) in enumerate(zip(groups, cells, strict=True)):
        passes += _pack(index, group, group_cells, executor, bounds, memory_of)
    return Plan(
        executor=executor.name,
        how=executor.description,
        why=why,
        n_layers=n_layers,
        groups=tuple(groups),
        passes=tuple(passes),
        minimum=minimum_of(cells, groups, n_layers),
        reference=_reference_cost(cells, groups, n_layers),
        piece=bounds.piece,
        memory=max((memory_of(groups[pass_.group], pass_) for pass_ in passes), default=0),
    )


def minimum_of(cells: Sequence[Sequence[CellStart]], groups: Sequence[PromptGroup], n_layers: int) -> int:
    """The token-layers of the unpatched runs, and of what of each cell lies above and behind its start."""
    token_layers = sum(token_layers_of(group, n_layers) for group in groups)
    for group, group_cells in zip(groups, cells, strict=True):
        token_layers += sum(_minimum_of_cell(cell, group, n_layers) for cell in group_cells)
    return token_layers


def _minimum_of_cell(cell: CellStart, group: PromptGroup, n_layers: int) -> int:
    """The token-layers above and behind what a cell edits."""
    n_positions = group.length - cell.start
    return group.batch * n_positions * (n_layers - (cell.entry or 0))


def _reference_cost(cells: Sequence[Sequence[CellStart]], groups: Sequence[PromptGroup], n_layers: int) -> int:
    """The token-layers of the unpatched runs, and of one full forward pass for each cell."""
    token_layers = 0
    for group, group_cells in zip(groups, cells, strict=True):
        token_layers += token_layers_of(group, n_layers) * (1 + len(group_cells))
    return token_layers


def _pack(
    group_index: int,
    group: PromptGroup,
    cells: Sequence[CellStart],
    executor: PassShape,
    bounds: Bounds,
    memory_of: MemoryOf,
) -> list[Pass]:
    """The passes of one group: cells that start at one position share them, in the order of their entries."""
    if executor.one_cell_a_pass:
        return [Pass(group_index, 0, (index,), (0,)) for index in range(len(cells))]
    entries = [executor.entry(cell) for cell in cells]
    companies = [(cell.start, cell.runs_modules_again) for cell in cells]
    order = sorted(range(len(cells)), key=lambda index: (companies[index], entries[index], index))
    passes: list[Pass] = []
    for (start, _), indices in groupby(order, key=lambda index: companies[index]):
        pass_ = Pass(group_index, start, (), ())
        for index in indices:
            larger_pass = replace(pass_, cells=(*pass_.cells, index), entries=(*pass_.entries, entries[index]))
            if pass_.cells and not _fits(larger_pass, group, bounds, memory_of):
                passes.append(pass_)
                larger_pass = Pass(group_index, start, (index,), (entries[index],))
            pass_ = larger_pass
        passes.append(pass_)
    return passes


def _fits(pass_: Pass, group: PromptGroup, bounds: Bounds, memory_of: MemoryOf) -> bool:
    """Whether a pass is within the bounds."""
    n_cells = len(pass_.cells)
    n_tokens = n_cells * group.batch * (group.length - pass_.start)
    if n_cells > bounds.rows or n_tokens > bounds.tokens:
        return False
    return bounds.memory is None or memory_of(group, pass_) <= bounds.memory
