"""From the `over` of a sweep, which names axes or lists cells, to the edits of every cell."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import TypeIs

from mlx_patch.errors import KindError, UnknownNameError, ValueRefusedError, did_you_mean, listed
from mlx_patch.interventions import Edit, Intervention
from mlx_patch.positions import Selector
from mlx_patch.results import AXES, Coordinate
from mlx_patch.sweeps._choices import Choices
from mlx_patch.sweeps._grid import AxisChoice, make_grid
from mlx_patch.sweeps._sources import sources_of


@dataclass(frozen=True, eq=False)
class RequestedCells:
    """The edits of every cell for each intervention, the cells' coordinates, and the request in words."""

    edits: Sequence[Sequence[tuple[Edit, ...]]]
    coords: Mapping[str, tuple[Coordinate, ...]]
    description: Mapping[str, Any]


def cells_of_axes(over: Sequence[str], interventions: Sequence[Intervention], choices: Choices) -> RequestedCells:
    """Every cell of a grid."""
    if not interventions:
        raise KindError("`intervention` must be an Intervention. Got None. Write mp.Ablate('zero'), say.")
    if not choices.sites:
        raise ValueRefusedError("`at` must be a site. Got None. Write at='resid_post', say.")
    grid = make_grid(over, choices.sites, choices.count_from_start(over), choices.axis_range)
    edits = [grid.edits(intervention) for intervention in interventions]
    description: dict[str, Any] = {
        "intervention": describe_interventions(interventions),
        "at": list(choices.sites),
    }
    for name, choice in grid.fixed.items():
        description[name] = _label(choice)
    description["sources"] = sources_of(interventions, edits)
    coords = {axis: tuple(map(_label, coordinates)) for axis, coordinates in grid.coords.items()}
    return RequestedCells(edits, coords, description)


def _label(choice: str | AxisChoice) -> Coordinate:
    """A coordinate of a result: a selector is shown as it is written."""
    if isinstance(choice, Selector):
        return repr(choice)
    return choice


def cells_of_list(
    over: Sequence[Any], interventions: Sequence[Intervention], sites: Sequence[str], arguments: Mapping[str, object]
) -> RequestedCells:
    """The cells of a list."""
    for axis, argument in arguments.items():
        if argument is not None:
            raise ValueRefusedError(
                f"`{AXES[axis].argument}` must be left out if `over` holds cells. Got {argument!r}. Set it in each "
                "cell."
            )
    edits = place_cells(over, interventions, sites)
    description = {
        "intervention": describe_interventions(interventions),
        "at": list(sites),
        "sources": sources_of(interventions, edits),
    }
    return RequestedCells(edits, {"cell": label_cells(over)}, description)


def describe_interventions(interventions: Sequence[Intervention]) -> str:
    """Interventions as they are written, each once."""
    return listed(dict.fromkeys(map(repr, interventions)))


def are_axes(over: object) -> TypeIs[str | Sequence[str]]:
    """Whether `over` names axes, and does not list cells.

    Raises:
        KindError: They are neither.
    """
    if not isinstance(over, str | list | tuple):
        raise KindError(
            f"`over` must be names of axes, or a list of cells. Got {type(over).__name__}. Write over=('layer',), say."
        )
    if isinstance(over, str):
        return True
    return bool(over) and all(isinstance(entry, str) for entry in over)


_KEYS = ("site", "layer", "pos", "head", "neuron", "batch")


def place_cells(
    over: Sequence[Any], interventions: Sequence[Intervention], sites: Sequence[str]
) -> list[list[tuple[Edit, ...]]]:
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


def _place_cell(cell: Any, intervention: Intervention | None, sites: Sequence[str]) -> tuple[Edit, ...]:
    if isinstance(cell, Edit):
        return (cell,)
    if isinstance(cell, list | tuple) and cell and all(isinstance(edit, Edit) for edit in cell):
        return tuple(cell)
    if not isinstance(cell, Mapping):
        raise KindError(
            f"`over` must hold names of axes, or cells: edits, lists of edits, or dicts for `.at`. Got {cell!r}. "
            "Write over=('layer',), or over=[{'layer': 3, 'pos': -1}], say."
        )
    if intervention is None:
        raise KindError(
            "`intervention` must be an Intervention if `over` holds dicts. Got None. Write mp.Ablate('zero')."
        )
    return _place_intervention(intervention, cell, sites)


def _place_intervention(intervention: Intervention, where: Mapping[str, Any], sites: Sequence[str]) -> tuple[Edit, ...]:
    for key in where:
        if key not in _KEYS:
            near = did_you_mean(str(key), _KEYS)
            raise UnknownNameError(f"`over` must hold dicts of what `.at` takes. Got {key!r} in {dict(where)}. {near}")
    if "site" in where:
        sites = (where["site"],)
    if not sites:
        raise ValueRefusedError(f"`at` must be a site if a cell has none. Got None with {dict(where)}. Add 'site'.")
    return tuple(intervention.at(**{**where, "site": site}) for site in sites)


def _refuse_unused(interventions: Sequence[object], sites: Sequence[str], dicts: Sequence[Mapping[str, Any]]) -> None:
    needs_sites = any("site" not in cell for cell in dicts)
    for name, values, is_used in (("intervention", interventions, bool(dicts)), ("at", sites, needs_sites)):
        if values and not is_used:
            raise ValueRefusedError(
                f"`{name}` must be left out if every cell of `over` has its own. Got {values[0]!r}. Leave it out, or "
                "give cells as dicts."
            )
