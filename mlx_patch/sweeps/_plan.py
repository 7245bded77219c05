"""`Plan`: from the cells of a sweep to the passes that compute them. Pure: it sees no model and no array."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any, Literal

from mlx_patch.sweeps._cells import Cell

Executor = Literal["grow", "rows", "reference"]
"""How passes are run.

* `grow`: a row of the batch begins at the first block that differs from the unedited run.
* `rows`: every row runs through all blocks.
* `reference`: one cell a pass, over the whole prompt.
"""

MOST_ROWS = 128
"""Cells in one pass at most. More would cost memory and save no time: the weights are read once a pass."""

MOST_TOKENS = 4096
"""Rows times positions in one pass at most, for the same reason."""


PIECE = 256
"""Positions of a prompt that run at once, at most, where it may be split. Fewer would not fill a matrix product."""


@dataclass(frozen=True)
class Pass:
    """Cells that run together.

    Attributes:
        group: Which prompts: the index of a group of equal length.
        start: The first position that is computed; those before come from a prompt cache.
        cells: Indices of cells, in the order in which their rows enter.
        entries: For each, the block at which its row enters.
    """

    group: int
    start: int
    cells: tuple[int, ...]
    entries: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """Prompts of one length, which run as one batch."""

    length: int
    batch: int


@dataclass(frozen=True)
class Bounds:
    """How large a pass may get.

    Attributes:
        rows: Cells.
        tokens: Rows times positions; one cell may have more.
        memory: Bytes, estimated; one cell may have more. None is no bound.
        piece: Positions that run at once, where a prompt may be split.
    """

    rows: int = MOST_ROWS
    tokens: int = MOST_TOKENS
    memory: int | None = None
    piece: int = PIECE


@dataclass(frozen=True)
class Plan:
    """The passes of a sweep, and what they cost. Printed, it says so in words.

    The unit of cost is the token-layer: one position of one row going through one block.

    Attributes:
        executor: How passes are run.
        why: Why no cheaper executor could be taken; empty where there is none.
        n_layers: The model's blocks.
        groups: Prompts of one length each.
        passes: What is run.
        minimum: The least that the cells cost: the unedited run, and of each cell what lies above and behind its edits.
        reference: What one full forward pass for each cell costs, with the unedited run.
        piece: Positions that run at once, at most, where a prompt may be split.
        memory: An estimate of what the largest pass takes beside the weights, in bytes.
    """

    executor: Executor
    why: str
    n_layers: int
    groups: tuple[Group, ...]
    passes: tuple[Pass, ...]
    minimum: int
    reference: int
    piece: int
    memory: int

    @property
    def base(self) -> int:
        """The token-layers of the unedited runs."""
        return sum(group.batch * group.length * self.n_layers for group in self.groups)

    @property
    def token_layers(self) -> int:
        """The token-layers of everything."""
        return self.base + sum(map(self.cost, self.passes))

    @property
    def n_cells(self) -> int:
        """How many cells the passes compute."""
        return sum(len(one.cells) for one in self.passes)

    def cost(self, one: Pass) -> int:
        """The token-layers of one pass."""
        group = self.groups[one.group]
        return group.batch * (group.length - one.start) * sum(self.n_layers - entry for entry in one.entries)

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain data, for files."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Plan":
        """The plan that `as_dict` gave."""
        passes = tuple(
            Pass(one["group"], one["start"], tuple(one["cells"]), tuple(one["entries"])) for one in data["passes"]
        )
        groups = tuple(Group(**group) for group in data["groups"])
        return cls(**{**data, "groups": groups, "passes": passes})

    def __str__(self) -> str:
        prompts = ", ".join(f"{_many(group.batch, 'row')} of {_many(group.length, 'token')}" for group in self.groups)
        because = f", because {self.why}" if self.why else ""
        times = self.reference / self.token_layers
        return "\n".join((
            f"{_many(self.n_cells, 'cell')} in {_many(len(self.passes), 'pass', 'passes')}, executor {self.executor}{because}",
            f"prompts: {prompts}; {_many(self.n_layers, 'layer')}",
            f"token-layers: {self.token_layers:,}; the least that these cells cost is {self.minimum:,}",
            f"one forward pass a cell would cost {self.reference:,}, {times:.1f} times as many",
            f"memory of the largest pass: about {_size(self.memory)} beside the weights",
        ))


def _many(count: int, one: str, more: str = "") -> str:
    return f"{count} {one}" if count == 1 else f"{count} {more or one + 's'}"


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


MemoryOf = Callable[[Group, Pass], int]
"""What a pass takes beside the weights, in bytes."""


def make_plan(
    cells: Sequence[Sequence[Cell]],
    groups: Sequence[Group],
    n_layers: int,
    executor: Executor,
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
    passes = [
        one
        for number, (group, own) in enumerate(zip(groups, cells, strict=True))
        for one in _passes(number, group, own, executor, bounds, memory_of)
    ]
    all_of = sum(g.batch * g.length * n_layers for g in groups)
    least = sum(
        g.batch * (g.length - cell.start) * (n_layers - (cell.entry or 0))
        for g, own in zip(groups, cells, strict=True)
        for cell in own
    )
    one_each = sum(g.batch * g.length * n_layers * len(own) for g, own in zip(groups, cells, strict=True))
    largest = max((memory_of(groups[one.group], one) for one in passes), default=0)
    return Plan(executor, why, n_layers, tuple(groups), tuple(passes), all_of + least, all_of + one_each, bounds.piece, largest)


def _passes(
    number: int, group: Group, cells: Sequence[Cell], executor: Executor, bounds: Bounds, memory_of: MemoryOf
) -> list[Pass]:
    if executor == "reference":
        return [Pass(number, 0, (i,), (0,)) for i in range(len(cells))]
    entry = {i: cell.entry or 0 if executor == "grow" else 0 for i, cell in enumerate(cells)}
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


def _fits(one: Pass, group: Group, bounds: Bounds, memory_of: MemoryOf) -> bool:
    tokens = len(one.cells) * group.batch * (group.length - one.start)
    if len(one.cells) > bounds.rows or tokens > bounds.tokens:
        return False
    return bounds.memory is None or memory_of(group, one) <= bounds.memory
