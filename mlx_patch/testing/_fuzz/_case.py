"""`Case`: one random sweep, as data: a model, prompts, cells, what is read, and how it runs."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from typing_extensions import override

from mlx_patch.interventions import Edit, Intervention

EditsOfCell = Sequence[tuple[Edit, ...]]
"""The edits of one cell: an entry a prompt, or a single entry that all prompts share."""


class Cells(ABC):
    """The cells of a random sweep, in one of the forms that `sweep` takes them in."""

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """What `sweep` is called with."""

    @abstractmethod
    def edits(self) -> tuple[EditsOfCell, ...]:
        """The edits of each cell."""

    @abstractmethod
    def some(self, numbers: Sequence[int]) -> "Cells":
        """Some of the cells."""

    @abstractmethod
    def simpler(self) -> "Iterator[Cells]":
        """The same with something left out."""

    def only(self, prompt: int) -> "Cells":
        """The cells of a sweep of one of the prompts."""
        del prompt
        return self


@dataclass(frozen=True)
class EditLists(Cells):
    """Cells given as lists of edits."""

    cells: tuple[tuple[Edit, ...], ...]

    @override
    def arguments(self) -> dict[str, Any]:
        return {"over": [list(cell) for cell in self.cells]}

    @override
    def edits(self) -> tuple[EditsOfCell, ...]:
        return tuple((cell,) for cell in self.cells)

    @override
    def some(self, numbers: Sequence[int]) -> Cells:
        return EditLists(tuple(self.cells[n] for n in numbers))

    @override
    def simpler(self) -> Iterator[Cells]:
        yield from (EditLists(cells) for cells in _without_each(self.cells))
        for n, cell in enumerate(self.cells):
            for fewer in _without_each(cell):
                yield EditLists((*self.cells[:n], fewer, *self.cells[n + 1 :]))


@dataclass(frozen=True)
class CasePlaces(Cells):
    """Cells given as dicts for `.at`, of one intervention for all prompts or of one a prompt."""

    interventions: tuple[Intervention, ...]
    wheres: tuple[Mapping[str, Any], ...]

    @override
    def arguments(self) -> dict[str, Any]:
        several = len(self.interventions) > 1
        intervention = list(self.interventions) if several else self.interventions[0]
        return {"intervention": intervention, "over": [dict(where) for where in self.wheres]}

    @override
    def edits(self) -> tuple[EditsOfCell, ...]:
        return tuple(tuple((what.at(**where),) for what in self.interventions) for where in self.wheres)

    @override
    def some(self, numbers: Sequence[int]) -> Cells:
        return replace(self, wheres=tuple(self.wheres[n] for n in numbers))

    @override
    def simpler(self) -> Iterator[Cells]:
        yield from (replace(self, wheres=wheres) for wheres in _without_each(self.wheres))

    @override
    def only(self, prompt: int) -> Cells:
        return replace(self, interventions=self.interventions[prompt : prompt + 1]) if self.interventions[1:] else self


@dataclass(frozen=True)
class GridCase(Cells):
    """Cells given as axes: every layer at every position."""

    intervention: Intervention
    site: str
    layers: tuple[int, ...]
    positions: tuple[Any, ...]

    @override
    def arguments(self) -> dict[str, Any]:
        axes = {"over": ("layer", "pos"), "layers": list(self.layers), "positions": list(self.positions)}
        return {"intervention": self.intervention, "at": self.site, **axes}

    @override
    def edits(self) -> tuple[EditsOfCell, ...]:
        at = self.intervention.at
        return tuple(((at(self.site, layer=n, pos=pos),),) for n in self.layers for pos in self.positions)

    @override
    def some(self, numbers: Sequence[int]) -> Cells:
        edits = self.edits()
        return EditLists(tuple(edits[n][0] for n in numbers))

    @override
    def simpler(self) -> Iterator[Cells]:
        yield from (replace(self, layers=layers) for layers in _without_each(self.layers))
        yield from (replace(self, positions=positions) for positions in _without_each(self.positions))


@dataclass(frozen=True)
class Case:
    """One random sweep.

    Attributes:
        model: Its name.
        precision: Of the weights.
        prompts: The token ids of each prompt.
        listed: Whether they are a list of prompts, each as if alone; a batch otherwise.
        cells: What is swept.
        reads: The positions that metrics read; None is all.
        executor: Of the sweep.
        memory: As of `sweep`.
        piece: Positions of a prompt that run at once.
    """

    model: str
    precision: str
    prompts: tuple[tuple[int, ...], ...]
    listed: bool
    cells: Cells
    reads: tuple[int | None, ...]
    executor: str = "auto"
    memory: int | None = None
    piece: int = 256

    def simpler(self) -> "Iterator[Case]":
        """The same with something left out, the largest parts first."""
        yield from (replace(self, cells=cells) for cells in self.cells.simpler())
        yield from (replace(self, reads=reads) for reads in _without_each(self.reads))
        if self.listed and len(self.prompts) > 1:
            for n, prompt in enumerate(self.prompts):
                yield replace(self, prompts=(prompt,), cells=self.cells.only(n))
        plainer: dict[str, Any] = {"memory": None, "piece": 256, "executor": "auto", "reads": (-1,)}
        yield from (replace(self, **{name: value}) for name, value in plainer.items() if getattr(self, name) != value)

    def __str__(self) -> str:
        how = f"executor={self.executor!r}, memory={self.memory}, pieces of {self.piece}, logits at {list(self.reads)}"
        prompts = [list(prompt) for prompt in self.prompts]
        lines = [
            f"model: tiny_model({self.model!r}, {self.precision!r})",
            f"prompts: {prompts if self.listed else f'mx.array({prompts})'}" + (" (a list)" if self.listed else ""),
            f"sweep: {self.cells.arguments()}",
            f"how: {how}",
        ]
        return "\n".join(lines)


def _without_each(many: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Each of several alone, then all but one of them."""
    if len(many) > 1:
        yield from ((item,) for item in many)
        yield from (many[:n] + many[n + 1 :] for n in range(len(many) if len(many) > 2 else 0))
