"""`Setup`: a sweep that is ready to run. Whatever can be refused is refused while it is made, before anything long."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import TypeIs

from mlx_patch.errors import KindError, ValueRefusedError, listed
from mlx_patch.interventions import Edit, Intervention
from mlx_patch.metrics import GenerateMatches, Metric
from mlx_patch.model import HookedModel, Placing, refuse_unlearned
from mlx_patch.positions import Selector
from mlx_patch.sites import Site
from mlx_patch.sweeps._aligning import placed
from mlx_patch.sweeps._axes import Coordinate, grid_of
from mlx_patch.sweeps._cells import Cell, cell_of, may_follow_the_norm
from mlx_patch.sweeps._choices import ARGUMENTS, Choices, chosen_by_axis, site_names
from mlx_patch.sweeps._forced import Expansion, expanded, expansion_of, plain_of
from mlx_patch.sweeps._given import CellChoice, given_cells, labels
from mlx_patch.sweeps._prompts import Batch, Prompts, batches_of
from mlx_patch.sweeps._reading import Reading, metrics_of, reading_of
from mlx_patch.sweeps._shapes import Shapes
from mlx_patch.sweeps._sources import sources_of
from mlx_patch.sweeps._speaking import refuse_silence, speaking
from mlx_patch.sweeps._trial import check_sources, refuse_misfits


@dataclass(frozen=True, eq=False)
class Setup:
    """A sweep that is ready to run.

    Attributes:
        model: The model.
        batches: The prompts, in groups of equal length.
        readings: What the metrics read of each group.
        cells: For each group, every cell.
        coords: What stands along each axis, by its name, in order.
        said: What is done where, in words.
        expansion: How what is run hangs together with what was asked for, where answers have several tokens.
    """

    model: HookedModel
    batches: tuple[Batch, ...]
    readings: tuple[Reading, ...]
    cells: tuple[tuple[Cell, ...], ...]
    coords: Mapping[str, tuple[Coordinate, ...]]
    said: Mapping[str, Any]
    expansion: Expansion | None = None

    @property
    def asked(self) -> "Setup | Expansion":
        """What holds the prompts and the metrics as they were given."""
        return self.expansion or self

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics, as they are for the first group; their names are the same for all."""
        return self.readings[0].metrics

    @property
    def speaks(self) -> bool:
        """Whether the metrics let the model write; then all of them do, and each cell is a run of its own."""
        return speaking(self.metrics)

    @property
    def n_examples(self) -> int:
        """How many prompts there are."""
        return sum(len(batch.examples) for batch in self.batches)


@dataclass(frozen=True, eq=False)
class _Asked:
    """The edits of every cell, for each intervention; the coordinates of the cells; and what was asked, in words."""

    edits: Sequence[Sequence[tuple[Edit, ...]]]
    coords: Mapping[str, tuple[Coordinate, ...]]
    said: Mapping[str, Any]


def set_up(
    model: HookedModel,
    tokens: Prompts,
    intervention: Intervention | Sequence[Intervention] | None,
    at: str | Site | Sequence[str | Site] | None,
    over: str | Sequence[str] | Sequence[CellChoice],
    metric: object,
    layers: Any,
    positions: Any,
    heads: Any,
    neurons: Any,
    alphas: Any,
) -> Setup:
    """A sweep, checked. The arguments are those of `sweep`.

    Raises:
        PatchError: As `sweep` says.
    """
    batches = batches_of(tokens, model.tokenizer, model.d_vocab)
    metrics = metrics_of(metric, model.tokenizer)
    written = max((one.max_tokens - 1 for one in metrics if isinstance(one, GenerateMatches)), default=0)
    refuse_unlearned(model.layout, max(batch.length for batch in batches) + written)
    for one in metrics:
        if isinstance(one, GenerateMatches):
            refuse_silence(model, one)
    expansion = expansion_of(metrics, batches, model.d_vocab)
    readings = readings_of(plain_of(metrics), batches)
    interventions, positions = placed(_interventions(intervention, _count(batches)), positions, batches)
    given = {"layer": layers, "pos": positions, "head": heads, "neuron": neurons, "alpha": alphas}
    shapes = Shapes(model.layout, batches[0].tokens)
    if _are_axes(over):
        names = (over,) if isinstance(over, str) else over
        chosen = chosen_by_axis(given, model.n_layers, batches)
        asked = _of_axes(names, interventions, Choices(model, batches, site_names(at), chosen, shapes))
    else:
        asked = _of_cells(over, interventions, site_names(at), given)
    every = [edit for own in asked.edits for cell in own for edit in cell]
    refuse_rows(every, several=any(batch.alone for batch in batches) or len(interventions) > 1)
    if any(may_follow_the_norm(model.layout, edit) for edit in every):
        readings = tuple(reading.whole() for reading in readings)
    cells = tuple(
        tuple(cell_of(model.layout, edits, batch.length, reading.reach) for edits in resolved)
        for batch, reading, resolved in zip(batches, readings, _resolved(asked.edits, batches, model), strict=True)
    )
    check_sources(model.layout, cells)
    for batch, own in zip(batches, cells, strict=True):
        refuse_misfits(shapes, batch.tokens.shape, own)
    if expansion is not None:
        run = expanded(model.layout, expansion, readings, cells)
        refuse_unlearned(model.layout, max(batch.length for batch in run["batches"]), "metric", "Measure less.")
        return Setup(model, coords=asked.coords, said=asked.said, expansion=expansion, **run)
    return Setup(model, batches, readings, cells, asked.coords, asked.said)


def _count(batches: Sequence[Batch]) -> int:
    return sum(len(batch.examples) for batch in batches)


def readings_of(metrics: Sequence[Metric], batches: Sequence[Batch]) -> tuple[Reading, ...]:
    """What is read of each group: of metrics that hold something for each example, that of its own."""
    n = _count(batches)
    return tuple(reading_of([one.for_rows(batch.examples, n) for one in metrics], batch.length) for batch in batches)


def _of_axes(over: Sequence[str], interventions: Sequence[Intervention], choices: Choices) -> _Asked:
    """Every cell of a grid."""
    if not interventions:
        raise KindError("`intervention` must be an Intervention. Got None. Write mp.Ablate('zero'), say.")
    if not choices.sites:
        raise ValueRefusedError("`at` must be a site. Got None. Write at='resid_post', say.")
    grid = grid_of(over, choices.sites, choices.counted(over), choices.every)
    fixed = {name: repr(given) if isinstance(given, Selector) else given for name, given in grid.fixed.items()}
    edits = [grid.edits(one) for one in interventions]
    said = {"intervention": _said(interventions), "at": list(choices.sites), **fixed}
    return _Asked(edits, _named(grid.coords), said | {"sources": sources_of(interventions, edits)})


def _named(coords: Mapping[str, tuple[Coordinate, ...]]) -> Mapping[str, tuple[Coordinate, ...]]:
    """The coordinates with selectors as they are written."""
    return {
        axis: tuple(repr(one) if isinstance(one, Selector) else one for one in along) for axis, along in coords.items()
    }


def _resolved(
    edits: Sequence[Sequence[tuple[Edit, ...]]], batches: Sequence[Batch], model: HookedModel
) -> Iterator[list[tuple[Edit, ...]]]:
    """For each batch the edits of every cell, at its own positions."""
    for batch in batches:
        placing = Placing(batch.tokens, model.tokenizer, alone=batch.alone)
        yield [tuple(map(placing.join, cell)) for cell in _by_row(edits, batch)]


def _of_cells(
    over: Sequence[Any], interventions: Sequence[Intervention], sites: Sequence[str], given: Mapping[str, object]
) -> _Asked:
    """Cells that were given one by one."""
    for axis, choice in given.items():
        if choice is not None:
            raise ValueRefusedError(
                f"`{ARGUMENTS[axis]}` must be left out where `over` holds cells. Got {choice!r}. Say it in each cell."
            )
    edits = given_cells(over, interventions, sites)
    said = {"intervention": _said(interventions), "at": list(sites), "sources": sources_of(interventions, edits)}
    return _Asked(edits, {"cell": labels(over)}, said)


def _said(interventions: Sequence[Intervention]) -> str:
    return listed(dict.fromkeys(map(repr, interventions)))


def _are_axes(over: object) -> TypeIs[str | Sequence[str]]:
    """Whether these are names of axes, and not cells.

    Raises:
        KindError: They are neither.
    """
    if not isinstance(over, str | list | tuple):
        raise KindError(
            f"`over` must be names of axes, or a list of cells. Got {type(over).__name__}. Write over=('layer',), say."
        )
    return isinstance(over, str) or (bool(over) and all(isinstance(one, str) for one in over))


def _interventions(given: Intervention | Sequence[Intervention] | None, n: int) -> list[Intervention]:
    """One for all prompts, or one a prompt; none where none was given."""
    if given is None:
        return []
    if not isinstance(given, list | tuple):
        return [_intervention(given)]
    if len(given) != n:
        raise ValueRefusedError(
            f"`intervention` must be one, or one a prompt: {n}. Got {len(given)}. Compose several with `|`."
        )
    return [_intervention(one) for one in given]


def _intervention(one: object) -> Intervention:
    if not isinstance(one, Intervention):
        raise KindError(
            f"`intervention` must be an Intervention, or one a prompt. Got {one!r}. Write mp.Replace(cache), say."
        )
    return one


def refuse_rows(edits: Sequence[Edit], several: bool) -> None:
    """Refuse edits of single rows where prompts run in several groups, or each has its own intervention.

    Raises:
        ValueRefusedError: There is one.
    """
    for edit in edits:
        if several and edit.batch is not None:
            raise ValueRefusedError(
                f"`batch` must be left out where prompts differ in length, stand in a list, or have an "
                f"intervention each. Got {edit!r}. "
                "Pass prompts of one length as one array, or give one intervention a prompt."
            )


def _by_row(per_prompt: Sequence[Sequence[tuple[Edit, ...]]], batch: Batch) -> Iterator[list[tuple[Edit, ...]]]:
    """For each cell of a batch its edits, each as the edits of all rows, which differ where each prompt has its own."""
    of_rows = [per_prompt[example if len(per_prompt) > 1 else 0] for example in batch.examples]
    for cell in zip(*of_rows, strict=True):
        yield list(zip(*cell, strict=True))
