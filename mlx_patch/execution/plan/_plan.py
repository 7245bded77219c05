"""`Plan`: the passes of a sweep and what they cost, as data and in words. Pure: it sees no model and no array.

The unit of cost is the token-layer: one position of one row going through one block.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from typing_extensions import override

_MOST_LENGTHS_SAID = 3


@dataclass(frozen=True)
class PromptGroup:
    """Prompts of one length, which run as one batch."""

    length: int
    batch: int


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
class Plan:
    """The passes of a sweep, and what they cost in token-layers. Printed, it says so in words.

    Attributes:
        executor: The name of the executor.
        why: Why no cheaper executor could be taken; empty where there is none.
        n_layers: The model's blocks.
        groups: Prompts of one length each.
        passes: What is run.
        minimum: The least that the cells cost: the unedited run, and of each cell what lies above and behind its edits.
        reference: What one full forward pass for each cell costs, with the unedited run.
        piece: Positions of a prompt that run at once, at most, where it may be split.
        memory: An estimate of what the largest pass takes beside the weights, in bytes.
        written: The token-layers that are for what the model writes, at most, beside the passes.
        how: What the executor does, in words.
    """

    executor: str
    why: str
    n_layers: int
    groups: tuple[PromptGroup, ...]
    passes: tuple[Pass, ...]
    minimum: int
    reference: int
    piece: int
    memory: int
    written: int = 0
    how: str = ""

    @property
    def base(self) -> int:
        """The token-layers of the unedited runs."""
        return sum(token_layers_of(group, self.n_layers) for group in self.groups)

    @property
    def token_layers(self) -> int:
        """The token-layers of the unedited runs and of all passes."""
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
        groups = tuple(PromptGroup(**group) for group in data["groups"])
        return cls(**{**data, "groups": groups, "passes": passes})

    @override
    def __str__(self) -> str:
        largest = max((len(one.cells) for one in self.passes), default=0)
        of_up_to = f" of up to {largest}" if len(self.passes) > 1 and largest > 1 else ""
        because = f", because {self.why}" if self.why else ""
        return "\n".join(
            (
                f"{self._cells()} in {_many(len(self.passes), 'pass', 'passes')}{of_up_to}",
                f"prompts: {self._prompts()}; {_many(self.n_layers, 'layer')}",
                f"executor: {self.executor} ({self.how}){because}",
                f"cost: {self.token_layers:,} token-layers (one position of one row through one block), "
                f"{self.base:,} of them unedited",
                f"the least that these cells can cost: {_compared(self.minimum, self.token_layers)}",
                f"one full forward pass a cell would cost: {_compared(self.reference, self.token_layers)}",
                f"memory: about {_size(self.memory)} for the largest pass, beside the weights",
                *((f"what the model writes: {self.written:,} token-layers more at most",) if self.written else ()),
            )
        )

    def _cells(self) -> str:
        groups = len(self.groups)
        shared = f" ({self.n_cells // groups:,} for each of {groups} lengths of prompts)" if groups > 1 else ""
        return _many(self.n_cells, "cell") + shared

    def _prompts(self) -> str:
        if len(self.groups) <= _MOST_LENGTHS_SAID:
            return ", ".join(f"{group.batch} of {_many(group.length, 'token')}" for group in self.groups)
        lengths, prompts = [group.length for group in self.groups], sum(group.batch for group in self.groups)
        return f"{prompts} of {min(lengths)} to {max(lengths)} tokens, in {len(lengths)} groups of equal length"


def _many(count: int, one: str, more: str = "") -> str:
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def _compared(cost: int, this: int) -> str:
    """A cost, and how many times this plan's it is."""
    if cost == this:
        return f"{cost:,}, the same"
    times = cost / this if cost > this else this / cost
    return f"{cost:,}, {times:,.2f} times {'as many' if cost > this else 'less'}"


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def token_layers_of(group: PromptGroup, n_layers: int) -> int:
    """The token-layers of one forward pass of some prompts."""
    return group.batch * group.length * n_layers
