"""`Setup`: a sweep that is ready to run. Whatever can be refused is refused while it is made, before anything long."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlx_patch.errors import KindError, SelectionError, ValueRefusedError, listed
from mlx_patch.interventions import Edit, Intervention
from mlx_patch.metrics import Metric, as_metric
from mlx_patch.model import HookedModel
from mlx_patch.sites import SITES, Site
from mlx_patch.sweeps._axes import Coordinate, choices, grid_of
from mlx_patch.sweeps._cells import Cell, cell_of, places_of
from mlx_patch.sweeps._prompts import Batch, Prompts, batches_of
from mlx_patch.sweeps._reading import Reading, reading_of
from mlx_patch.sweeps._shapes import Shapes, refuse_misfits

CellChoice = Edit | Sequence[Edit] | Mapping[str, Any]
"""A cell given by itself: edits, or what `Intervention.at` is given besides the site."""


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
    """

    model: HookedModel
    batches: tuple[Batch, ...]
    readings: tuple[Reading, ...]
    cells: tuple[tuple[Cell, ...], ...]
    coords: Mapping[str, tuple[Coordinate, ...]]
    said: Mapping[str, Any]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics, as they are for the first group."""
        return self.readings[0].metrics

    @property
    def n_examples(self) -> int:
        """How many prompts there are."""
        return sum(len(batch.examples) for batch in self.batches)


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
    n_examples = sum(len(batch.examples) for batch in batches)
    metrics = _metrics(metric, model)
    readings = tuple(
        reading_of([one.for_rows(batch.examples, n_examples) for one in metrics], batch.length) for batch in batches
    )
    sites = _sites(at)
    chosen = {
        "layer": _absolute("layer", choices("layers", layers), model.n_layers),
        "pos": _positions(choices("positions", positions), batches),
        "head": choices("heads", heads),
        "neuron": choices("neurons", neurons),
        "alpha": choices("alphas", alphas),
    }
    shapes = Shapes(model.layout, batches[0].tokens)
    if _are_axes(over):
        names = (over,) if isinstance(over, str) else tuple(str(name) for name in over)
        interventions = _interventions(intervention, n_examples)
        _refuse_no_site(sites)
        grid = grid_of(names, sites, chosen, lambda name: _every(name, sites, chosen, model, batches, shapes))
        per_example = [grid.edits(one) for one in interventions]
        coords = grid.coords
        said = {"intervention": listed(dict.fromkeys(map(repr, interventions))), "at": list(sites), **grid.fixed}
    else:
        per_example = [_given_cells(over, intervention, sites)]
        coords = {"cell": tuple(map(repr, over))}
        said = {"intervention": repr(intervention), "at": list(sites)}
    cells = tuple(
        tuple(cell_of(model.layout, edits, batch.length, reading.first) for edits in _of_batch(per_example, batch))
        for batch, reading in zip(batches, readings, strict=True)
    )
    _check_sources(model, cells)
    for batch, own in zip(batches, cells, strict=True):
        refuse_misfits(shapes, batch.tokens.shape, own)
    return Setup(model, batches, readings, cells, coords, said)


def _metrics(given: object, model: HookedModel) -> tuple[Metric, ...]:
    if given is None:
        raise KindError("`metric` must be a metric, or several. Got None. Write mp.metrics.LogitDiff(' Mary', ' John').")
    many = given if isinstance(given, list | tuple) else (given,)
    metrics = tuple(as_metric(one).resolve(model.tokenizer) for one in many)
    if not metrics:
        raise ValueRefusedError("`metric` must be a metric, or several. Got an empty list.")
    names = [one.name for one in metrics]
    if len(set(names)) < len(names):
        raise ValueRefusedError(f"`metric` must hold each metric once. Got {listed(names)}. Give them names of their own.")
    return metrics


def _sites(at: str | Site | Sequence[str | Site] | None) -> tuple[str, ...]:
    many = () if at is None else (at,) if isinstance(at, str | Site) else tuple(at)
    return tuple(one.name if isinstance(one, Site) and one.layer is None else str(one) for one in many)


def _refuse_no_site(sites: Sequence[str]) -> None:
    if not sites:
        raise ValueRefusedError("`at` must be a site. Got None. Write at='resid_post', say.")


def _are_axes(over: object) -> bool:
    return isinstance(over, str) or all(isinstance(one, str) for one in over)  # type: ignore[attr-defined]


def _interventions(given: Intervention | Sequence[Intervention] | None, n: int) -> list[Intervention]:
    many = list(given) if isinstance(given, list | tuple) else [given]
    for one in many:
        if not isinstance(one, Intervention):
            raise KindError(f"`intervention` must be an Intervention, or one a prompt. Got {one!r}.")
    if isinstance(given, list | tuple) and len(many) != n:
        raise ValueRefusedError(f"`intervention` must be one, or one a prompt: {n}. Got {len(many)}.")
    return many  # type: ignore[return-value]


def _given_cells(over: Sequence[Any], intervention: Any, sites: Sequence[str]) -> list[tuple[Edit, ...]]:
    if not over:
        raise ValueRefusedError("`over` must name axes, or hold cells. Got an empty list.")
    return [_given_cell(one, intervention, sites) for one in over]


def _given_cell(one: Any, intervention: Any, sites: Sequence[str]) -> tuple[Edit, ...]:
    if isinstance(one, Edit):
        return (one,)
    if isinstance(one, list | tuple) and one and all(isinstance(edit, Edit) for edit in one):
        return tuple(one)
    if not isinstance(one, Mapping):
        raise KindError(
            f"`over` must hold names of axes, or cells: edits, lists of edits, or dicts for `.at`. Got {one!r}."
        )
    if not isinstance(intervention, Intervention):
        raise KindError(f"`intervention` must be an Intervention where `over` holds dicts. Got {intervention!r}.")
    return tuple(intervention.at(**{"site": site, **one}) for site in (sites or (one.get("site", ""),)))


def _of_batch(per_example: Sequence[Sequence[tuple[Edit, ...]]], batch: Batch) -> Sequence[tuple[Edit, ...]]:
    """The edits of every cell for one batch; where each example has its own, each on its own row."""
    if len(per_example) == 1:
        return per_example[0]
    own = zip(*(per_example[example] for example in batch.examples), strict=True)
    return [tuple(replace(edit, batch=(row,)) for row, edits in enumerate(cell) for edit in edits) for cell in own]


def _absolute(name: str, given: tuple[Coordinate, ...] | None, size: int) -> tuple[Coordinate, ...] | None:
    """Numbers from 0 in place of those that count from the end."""
    if given is None:
        return None
    return tuple(
        tuple(_from_0(name, n, size) for n in one) if isinstance(one, tuple) else _from_0(name, one, size)
        for one in given
    )


def _from_0(name: str, n: Any, size: int) -> int:
    if not -size <= n < size:
        raise SelectionError(f"`{name}` must lie in {-size} to {size - 1}. Got {n}.")
    return n % size


def _positions(given: tuple[Coordinate, ...] | None, batches: Sequence[Batch]) -> tuple[Coordinate, ...] | None:
    shortest = min(batch.length for batch in batches)
    absolute = _absolute("positions", given, shortest)
    return absolute if len(batches) == 1 else given


def _every(
    name: str,
    sites: Sequence[str],
    chosen: Mapping[str, Sequence[Coordinate] | None],
    model: HookedModel,
    batches: Sequence[Batch],
    shapes: Shapes,
) -> Sequence[Coordinate]:
    """All that there is along an axis."""
    if name == "layer":
        return _layers(sites, model)
    if name == "pos":
        if len(batches) > 1:
            raise ValueRefusedError(
                "`positions` must be given where prompts differ in length. Got None. Count from the end: [-2, -1]."
            )
        return range(batches[0].length)
    if name == "alpha":
        raise ValueRefusedError("`alphas` must be given where `over` has 'alpha'. Got None. Write [0.0, 0.5, 1.0].")
    given = chosen["layer"]
    layers = None if given is None else [n for one in given for n in (one if isinstance(one, tuple) else (one,))]
    return range(shapes.size(name, sites, layers))  # type: ignore[arg-type]


def _layers(sites: Sequence[str], model: HookedModel) -> list[Coordinate]:
    for name in sites:
        if name not in SITES or not SITES[name].layered:
            raise SelectionError(f"`over` must not have 'layer' at {name!r}, which is not in every block.")
    having = [{site.layer for site in model.layout.select(name, None)} for name in sites]
    return sorted(layer for layer in set.intersection(*having) if layer is not None)  # type: ignore[return-value]


def _check_sources(model: HookedModel, cells: Sequence[Sequence[Cell]]) -> None:
    """Check each intervention once, for all sites that it is used at."""
    used: dict[int, tuple[Intervention, dict[Site, None]]] = {}
    for cell in (one for own in cells for one in own):
        for edit in cell.edits:
            _, sites = used.setdefault(id(edit.intervention), (edit.intervention, {}))
            sites.update(dict.fromkeys(places_of(model.layout, edit)))
    for intervention, sites in used.values():
        intervention.check(tuple(sites))
