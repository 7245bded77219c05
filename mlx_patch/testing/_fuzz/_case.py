"""`Case`: one random sweep, as data: a model, prompts, cells, the positions of metrics, and options."""

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
        """Arguments of `sweep`."""

    @abstractmethod
    def edits(self) -> tuple[EditsOfCell, ...]:
        """The edits of each cell."""

    @abstractmethod
    def some(self, numbers: Sequence[int]) -> "Cells":
        """Some of the cells."""

    @abstractmethod
    def simpler(self) -> "Iterator[Cells]":
        """The same with parts left out."""

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
        return EditLists(tuple(self.cells[number] for number in numbers))

    @override
    def simpler(self) -> Iterator[Cells]:
        yield from (EditLists(cells) for cells in _shorter(self.cells))
        for number, cell in enumerate(self.cells):
            before = self.cells[:number]
            after = self.cells[number + 1 :]
            for shorter_cell in _shorter(cell):
                yield EditLists((*before, shorter_cell, *after))


@dataclass(frozen=True)
class CasePlaces(Cells):
    """Cells given as dicts for `.at`, of one intervention for all prompts or of one a prompt."""

    interventions: tuple[Intervention, ...]
    wheres: tuple[Mapping[str, Any], ...]

    @override
    def arguments(self) -> dict[str, Any]:
        intervention: Any = self.interventions[0]
        if len(self.interventions) > 1:
            intervention = list(self.interventions)
        return {"intervention": intervention, "over": [dict(where) for where in self.wheres]}

    @override
    def edits(self) -> tuple[EditsOfCell, ...]:
        cells: list[EditsOfCell] = []
        for where in self.wheres:
            cells.append(tuple((intervention.at(**where),) for intervention in self.interventions))
        return tuple(cells)

    @override
    def some(self, numbers: Sequence[int]) -> Cells:
        return replace(self, wheres=tuple(self.wheres[number] for number in numbers))

    @override
    def simpler(self) -> Iterator[Cells]:
        yield from (replace(self, wheres=wheres) for wheres in _shorter(self.wheres))

    @override
    def only(self, prompt: int) -> Cells:
        if len(self.interventions) == 1:
            return self
        return replace(self, interventions=self.interventions[prompt : prompt + 1])


@dataclass(frozen=True)
class GridCase(Cells):
    """Cells given as axes: every layer at every position."""

    intervention: Intervention
    site: str
    layers: tuple[int, ...]
    positions: tuple[Any, ...]

    @override
    def arguments(self) -> dict[str, Any]:
        return {
            "intervention": self.intervention,
            "at": self.site,
            "over": ("layer", "pos"),
            "layers": list(self.layers),
            "positions": list(self.positions),
        }

    @override
    def edits(self) -> tuple[EditsOfCell, ...]:
        cells: list[EditsOfCell] = []
        for layer in self.layers:
            for pos in self.positions:
                edit = self.intervention.at(self.site, layer=layer, pos=pos)
                cells.append(((edit,),))
        return tuple(cells)

    @override
    def some(self, numbers: Sequence[int]) -> Cells:
        edits = self.edits()
        return EditLists(tuple(edits[number][0] for number in numbers))

    @override
    def simpler(self) -> Iterator[Cells]:
        yield from (replace(self, layers=layers) for layers in _shorter(self.layers))
        yield from (replace(self, positions=positions) for positions in _shorter(self.positions))


@dataclass(frozen=True)
class Case:
    """One random sweep.

    Attributes:
        model: Its name.
        precision: Of the weights.
        prompts: The token ids of each prompt.
        listed: Whether they are a list of prompts, each as if alone; a batch otherwise.
        cells: The cells of the sweep.
        reads: The positions that metrics read; None is all.
        executor: The executor of the sweep.
        memory: As in `sweep`.
        piece: How many positions of a prompt run at once.
        standing: The edits that every run has.
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
    standing: tuple[Edit, ...] = ()

    def simpler(self) -> "Iterator[Case]":
        """The same with parts left out, the largest parts first."""
        yield from (replace(self, cells=cells) for cells in self.cells.simpler())
        yield from (replace(self, reads=reads) for reads in _shorter(self.reads))
        if self.standing:
            yield replace(self, standing=())
        yield from (replace(self, standing=standing) for standing in _shorter(self.standing))
        if self.listed and len(self.prompts) > 1:
            for number, prompt in enumerate(self.prompts):
                yield replace(self, prompts=(prompt,), cells=self.cells.only(number))
        if self.memory is not None:
            yield replace(self, memory=None)
        if self.piece != 256:
            yield replace(self, piece=256)
        if self.executor != "auto":
            yield replace(self, executor="auto")
        if self.reads != (-1,):
            yield replace(self, reads=(-1,))

    def __str__(self) -> str:
        options = f"executor={self.executor!r}, memory={self.memory}, pieces of {self.piece}"
        prompts = [list(prompt) for prompt in self.prompts]
        written_prompts = f"mx.array({prompts})"
        if self.listed:
            written_prompts = f"{prompts} (a list)"
        lines = [
            f"model: tiny_model({self.model!r}, {self.precision!r})",
            f"prompts: {written_prompts}",
            f"sweep: {self.cells.arguments()}",
            f"standing edits: {list(self.standing)}",
            f"how: {options}, logits at {list(self.reads)}",
        ]
        return "\n".join(lines)


def _shorter(items: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Each of several items alone, then all but one of them."""
    if len(items) > 1:
        yield from ((item,) for item in items)
    if len(items) > 2:
        for index in range(len(items)):
            yield items[:index] + items[index + 1 :]
