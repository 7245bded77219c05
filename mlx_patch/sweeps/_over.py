"""From the `over` of a sweep, which names axes or lists cells, to the edits of every cell."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlx_patch.errors import KindError, UnknownNameError, ValueRefusedError, did_you_mean, listed, shown
from mlx_patch.interventions import CellEdit, Edit, Intervention, Path
from mlx_patch.results import Coordinate
from mlx_patch.sites import SITES, Site, short_name
from mlx_patch.sweeps._grid import cell_edit, make_grid
from mlx_patch.sweeps._sources import sources_of
from mlx_patch.sweeps.axes import SweepAxis, SweepScope


@dataclass(frozen=True, eq=False)
class RequestedCells:
    """The cells that a caller wants.

    Attributes:
        edits: The edits and paths of every cell, for each intervention.
        coords: The coordinates of the cells.
        description: The request, in words.
        standing: The edits that every run has: once, or for each choice along an axis.
        standing_axis: The axis along which they differ; empty where they do not.
        freeze: What is frozen between the senders and the receivers of paths.
    """

    edits: Sequence[Sequence[tuple[CellEdit, ...]]]
    coords: Mapping[str, tuple[Coordinate, ...]]
    description: Mapping[str, Any]
    standing: Sequence[tuple[Edit, ...]] = ((),)
    standing_axis: str = ""
    freeze: str = "all"

    def cells_with(self, number: int) -> Sequence[Sequence[tuple[CellEdit, ...]]]:
        """For each intervention the edits of the cells that have the standing edits of a number."""
        if not self.standing_axis:
            return self.edits
        sizes = [len(labels) for labels in self.coords.values()]
        cell_numbers = np.arange(np.prod(sizes)).reshape(sizes)
        chosen = cell_numbers.take(number, axis=list(self.coords).index(self.standing_axis))
        return [[cells[index] for index in chosen.ravel().tolist()] for cells in self.edits]


def cells_of_axes(over: Sequence[str], interventions: Sequence[Intervention], scope: SweepScope) -> RequestedCells:
    """Every cell of a grid."""
    if not interventions:
        raise KindError("`intervention` must be an Intervention. Got None. Write mp.Ablate('zero'), say.")
    if not scope.sites:
        raise ValueRefusedError("`at` must be a site. Got None. Write at='resid_post', say.")
    parsed_axes = {name: axis.parsed(scope) for name, axis in scope.axes.items()}
    grid = make_grid(over, replace(scope, axes=parsed_axes))
    for axis in grid.axes:
        axis.check(interventions, scope.standing)
    edits = [grid.edits(intervention) for intervention in interventions]
    description: dict[str, Any] = {
        "intervention": describe_interventions(interventions),
        "at": list(scope.sites),
    }
    for name, axis in parsed_axes.items():
        if axis.choices is not None and name in grid.fixed:
            description[name] = axis.coordinate(grid.fixed[name])
    description["sources"] = sources_of(interventions, edits)
    coords = {axis.name: tuple(map(axis.coordinate, axis.choices)) for axis in grid.axes}
    standing_axis, standing = _vary_standing(grid.axes, scope.standing)
    return RequestedCells(edits, coords, description, standing, standing_axis)


def _vary_standing(axes: Iterable[SweepAxis], standing: tuple[Edit, ...]) -> tuple[str, list[tuple[Edit, ...]]]:
    """The first axis along which the standing edits differ, and those of each choice; one of no name without any."""
    for axis in axes:
        varied = [axis.standing(standing, choice) for choice in axis.choices]
        if any(edits != standing for edits in varied):
            return axis.name, varied
    return "", [standing]


def cells_of_list(over: Sequence[Any], interventions: Sequence[Intervention], scope: SweepScope) -> RequestedCells:
    """The cells of a list."""
    for axis in scope.axes.values():
        if axis.choices is not None:
            raise ValueRefusedError(
                f"`{axis.title}` must be left out if `over` holds cells. Got {shown(axis.choices)}. Set it in "
                "each cell."
            )
    edits = place_cells(over, interventions, scope.sites)
    description = {
        "intervention": describe_interventions(interventions),
        "at": list(scope.sites),
        "sources": sources_of(interventions, edits),
    }
    return RequestedCells(edits, {"cell": label_cells(over)}, description, [scope.standing])


def site_names(at: object) -> tuple[str, ...]:
    """The names of the sites in `at`, as `Intervention.at` takes them.

    Raises:
        KindError: Something is no site.
        ValueRefusedError: A site is there twice.
    """
    if at is None:
        sites = ()
    elif isinstance(at, list | tuple):
        sites = tuple(at)
    else:
        sites = (at,)
    if not all(isinstance(site, str | Site) for site in sites):
        raise KindError(f"`at` must be a site, or several. Got {shown(at)}. Write at='resid_post', say.")
    names = tuple(map(_site_name, sites))
    if len(set(map(_spell_out, names))) < len(names):
        raise ValueRefusedError(f"`at` must name each site once. Got {listed(names)}. Leave one of them out.")
    return names


def _site_name(site: object) -> str:
    if isinstance(site, Site) and site.layer is None:
        return site.name
    return short_name(str(site))


def _spell_out(name: str) -> str:
    """A site in its canonical spelling, so that "z.0" and "blocks.0.attn.hook_z" are recognised as the same."""
    if name in SITES:
        return name
    return str(Site.parse(name))


def describe_interventions(interventions: Sequence[Intervention]) -> str:
    """Interventions as they are written, each once."""
    return listed(dict.fromkeys(map(repr, interventions)))


_KEYS = ("site", "layer", "pos", "head", "neuron", "batch", "key", "via")


def place_cells(
    over: Sequence[Any], interventions: Sequence[Intervention], sites: Sequence[str]
) -> list[list[tuple[CellEdit, ...]]]:
    """The edits of every cell, for each intervention; once, where there is none.

    Args:
        over: The cells.
        interventions: What to do where a cell is a dict: one, or one a prompt.
        sites: Where to do it, if the dict does not say. Several sites of one cell are edited together.
    Raises:
        KindError: A cell is none, or is a dict that has no intervention to place.
        UnknownNameError: A dict has a key that `Intervention.at` does not know.
        ValueRefusedError: There are no cells, a dict has no site, or an intervention or a site goes unused.
    """
    if not over:
        raise ValueRefusedError("`over` must name axes, or hold cells. Got an empty list. Write over=('layer',), say.")
    dicts = [cell for cell in over if isinstance(cell, Mapping)]
    _refuse_unused(interventions, sites, dicts)
    edits = []
    for intervention in interventions or (None,):
        edits.append([_place_cell(cell, intervention, sites) for cell in over])
    return edits


def label_cells(over: Sequence[Any]) -> tuple[str, ...]:
    """The labels of cells: each as it is written, numbered from its second occurrence on.

    Example:
        >>> label_cells([{"layer": 0}, {"layer": 0}])
        ("{'layer': 0}", "{'layer': 0} (2)")
    """
    occurrences: Counter[str] = Counter()
    labels = []
    for text in map(repr, over):
        occurrences[text] += 1
        if occurrences[text] > 1:
            labels.append(f"{text} ({occurrences[text]})")
        else:
            labels.append(text)
    return tuple(labels)


def _place_cell(cell: Any, intervention: Intervention | None, sites: Sequence[str]) -> tuple[CellEdit, ...]:
    if isinstance(cell, Edit | Path):
        return (cell,)
    if isinstance(cell, list | tuple) and cell and all(isinstance(edit, Edit | Path) for edit in cell):
        return tuple(cell)
    if not isinstance(cell, Mapping):
        raise KindError(
            f"`over` must hold names of axes, or cells: edits, lists of edits, or dicts for `.at`. Got {shown(cell)}. "
            "Write over=('layer',), or over=[{'layer': 3, 'pos': -1}], say."
        )
    if intervention is None:
        raise KindError(
            "`intervention` must be an Intervention if `over` holds dicts. Got None. Write mp.Ablate('zero')."
        )
    return _place_intervention(intervention, cell, sites)


def _place_intervention(
    intervention: Intervention, where: Mapping[str, Any], sites: Sequence[str]
) -> tuple[CellEdit, ...]:
    for key in where:
        if key not in _KEYS:
            near = did_you_mean(str(key), _KEYS)
            raise UnknownNameError(
                f"`over` must hold dicts of what `.at` takes. Got {shown(key)} in {dict(where)}. {near}"
            )
    if "site" in where:
        site = where["site"]
        sites = tuple(site) if isinstance(site, list | tuple) else (site,)
    if not sites:
        raise ValueRefusedError(f"`at` must be a site if a cell has none. Got None with {dict(where)}. Add 'site'.")
    return tuple(cell_edit(intervention, {**where, "site": site}) for site in sites)


def _refuse_unused(interventions: Sequence[object], sites: Sequence[str], dicts: Sequence[Mapping[str, Any]]) -> None:
    needs_sites = any("site" not in cell for cell in dicts)
    for name, values, is_used in (("intervention", interventions, bool(dicts)), ("at", sites, needs_sites)):
        if values and not is_used:
            raise ValueRefusedError(
                f"`{name}` must be left out if every cell of `over` has its own. Got {shown(values[0])}. "
                "Leave it out, or give cells as dicts."
            )
