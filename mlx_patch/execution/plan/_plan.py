"""`Plan`: the passes of a sweep and what they cost, as data and in words. Pure: it sees no model and no array.

The unit of cost is the token-layer: one position of one row going through one block.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from typing_extensions import override

_MAX_LENGTHS_LISTED = 3


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
    """The passes of a sweep, and what they cost in token-layers. `print(plan)` explains both in words.

    Attributes:
        executor: The name of the executor.
        why: Why no cheaper executor could be taken; empty where there is none.
        n_layers: The model's blocks.
        groups: Prompts of one length each.
        passes: What is run.
        minimum: The least that the cells cost: the unpatched run, and of each cell what lies above and behind its
            edits, up to the last position that a metric reads.
        reference: What one full forward pass for each cell costs, with the unpatched run.
        piece: Positions of a prompt that run at once, at most, where it may be split.
        memory: An estimate of what the largest pass takes beside the weights, in bytes.
        written: The token-layers of text that the model generates, at most, beside the passes.
        how: What the executor does, in words.
        standing: How many edits every run has, the unpatched ones too.
        draws: How many times the groups of prompts are there, each time with other standing edits.
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
    standing: int = 0
    draws: int = 1

    @property
    def base(self) -> int:
        """The token-layers of the unpatched runs."""
        return sum(token_layers_of(group, self.n_layers) for group in self.groups)

    @property
    def token_layers(self) -> int:
        """The token-layers of the unpatched runs and of all passes."""
        return self.base + sum(map(self.cost, self.passes))

    @property
    def n_cells(self) -> int:
        """How many cells the passes compute."""
        return sum(len(pass_.cells) for pass_ in self.passes)

    def cost(self, pass_: Pass) -> int:
        """The token-layers of one pass."""
        group = self.groups[pass_.group]
        n_positions = group.length - pass_.start
        n_layers = sum(self.n_layers - entry for entry in pass_.entries)
        return group.batch * n_positions * n_layers

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain data, for files."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Plan":
        """The plan from what `as_dict` returned."""
        passes = tuple(map(_pass_from_dict, data["passes"]))
        groups = tuple(PromptGroup(**group) for group in data["groups"])
        return cls(**{**data, "groups": groups, "passes": passes})

    @override
    def __str__(self) -> str:
        lines = [
            self._cells_line(),
            f"prompts: {self._prompts()}; {_counted(self.n_layers, 'layer')}",
            self._executor_line(),
            f"cost: {self.token_layers:,} token-layers (one position of one row through one block), "
            f"{self.base:,} of them unpatched",
            f"the minimum that these cells can cost: {_compared(self.minimum, self.token_layers)}",
            f"one full forward pass per cell would cost: {_compared(self.reference, self.token_layers)}",
            f"memory: about {_size(self.memory)} for the largest pass, beside the weights",
        ]
        if self.standing:
            lines.insert(2, self._standing_line())
        if self.written:
            lines.append(f"what the model writes: {self.written:,} token-layers more at most")
        return "\n".join(lines)

    def _cells_line(self) -> str:
        largest = max((len(pass_.cells) for pass_ in self.passes), default=0)
        passes = _counted(len(self.passes), "pass", "passes")
        if len(self.passes) > 1 and largest > 1:
            passes = f"{passes} of up to {largest}"
        return f"{self._cells()} in {passes}"

    def _cells(self) -> str:
        cells = _counted(self.n_cells, "cell")
        n_lengths = len(self.groups) // self.draws
        if n_lengths > 1:
            return f"{cells} ({self.n_cells // n_lengths:,} for each of {n_lengths} lengths of prompts)"
        return cells

    def _standing_line(self) -> str:
        line = f"standing edits: {self.standing}, in every run and in the unpatched ones"
        if self.draws > 1:
            return f"{line}, drawn {self.draws} times"
        return line

    def _prompts(self) -> str:
        groups = self.groups[: len(self.groups) // self.draws]
        if len(groups) <= _MAX_LENGTHS_LISTED:
            return ", ".join(f"{group.batch} of {_counted(group.length, 'token')}" for group in groups)
        lengths = [group.length for group in groups]
        n_prompts = sum(group.batch for group in groups)
        return f"{n_prompts} of {min(lengths)} to {max(lengths)} tokens, in {len(lengths)} groups of equal length"

    def _executor_line(self) -> str:
        line = f"executor: {self.executor} ({self.how})"
        if self.why:
            return f"{line}, because {self.why}"
        return line


def _pass_from_dict(data: Mapping[str, Any]) -> Pass:
    return Pass(data["group"], data["start"], tuple(data["cells"]), tuple(data["entries"]))


def _counted(count: int, singular: str, plural: str = "") -> str:
    """A count with its noun."""
    if count == 1:
        return f"{count:,} {singular}"
    return f"{count:,} {plural or singular + 's'}"


def _compared(cost: int, plan_cost: int) -> str:
    """A cost, and how many times the plan's it is."""
    if cost == plan_cost:
        return f"{cost:,}, the same"
    if cost > plan_cost:
        return f"{cost:,}, {cost / plan_cost:,.2f} times as many"
    return f"{cost:,}, {plan_cost / cost:,.2f} times less"


def _size(count: int) -> str:
    """A number of bytes, in GiB or MiB."""
    if count >= 2**30:
        return f"{count / 2**30:.1f} GiB"
    return f"{count / 2**20:.1f} MiB"


def token_layers_of(group: PromptGroup, n_layers: int) -> int:
    """The token-layers of one forward pass of some prompts."""
    return group.batch * group.length * n_layers
