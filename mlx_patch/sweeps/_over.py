"""What `over` says: axes, or cells that were given one by one; as the edits of every cell."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import TypeIs

from mlx_patch.errors import KindError, UnknownNameError, ValueRefusedError, did_you_mean, listed
from mlx_patch.interventions import Edit, Intervention
from mlx_patch.positions import Selector
from mlx_patch.results import Coordinate
from mlx_patch.sweeps._choices import ARGUMENTS, Choices
from mlx_patch.sweeps._grid import Chosen, grid_of
from mlx_patch.sweeps._sources import sources_of


@dataclass(frozen=True, eq=False)
class _Requested:
    """The edits of every cell, for each intervention; the coordinates of the cells; and what was asked, in words."""

    edits: Sequence[Sequence[tuple[Edit, ...]]]
    coords: Mapping[str, tuple[Coordinate, ...]]
    description: Mapping[str, Any]


def cells_of_axes(over: Sequence[str], interventions: Sequence[Intervention], choices: Choices) -> _Requested:
    """Every cell of a grid."""
    if not interventions:
        raise KindError("`intervention` must be an Intervention. Got None. Write mp.Ablate('zero'), say.")
    if not choices.sites:
        raise ValueRefusedError("`at` must be a site. Got None. Write at='resid_post', say.")
    grid = grid_of(over, choices.sites, choices.counted(over), choices.every)
    fixed = {name: repr(given) if isinstance(given, Selector) else given for name, given in grid.fixed.items()}
    edits = [grid.edits(one) for one in interventions]
    description = {"intervention": describe_interventions(interventions), "at": list(choices.sites), **fixed}
    return _Requested(edits, _named(grid.coords), description | {"sources": sources_of(interventions, edits)})


def _named(coords: Mapping[str, tuple[str | Chosen, ...]]) -> Mapping[str, tuple[Coordinate, ...]]:
    """The coordinates with selectors as they are written."""
    return {
        axis: tuple(repr(one) if isinstance(one, Selector) else one for one in along) for axis, along in coords.items()
    }


def cells_of_list(
    over: Sequence[Any], interventions: Sequence[Intervention], sites: Sequence[str], given: Mapping[str, object]
) -> _Requested:
    """Cells that were given one by one."""
    for axis, choice in given.items():
        if choice is not None:
            raise ValueRefusedError(
                f"`{ARGUMENTS[axis]}` must be left out where `over` holds cells. Got {choice!r}. Say it in each cell."
            )
    edits = given_cells(over, interventions, sites)
    description = {
        "intervention": describe_interventions(interventions),
        "at": list(sites),
        "sources": sources_of(interventions, edits),
    }
    return _Requested(edits, {"cell": labels(over)}, description)


def describe_interventions(interventions: Sequence[Intervention]) -> str:
    """Interventions as they are written, each once."""
    return listed(dict.fromkeys(map(repr, interventions)))


def are_axes(over: object) -> TypeIs[str | Sequence[str]]:
    """Whether these are names of axes, and not cells.

    Raises:
        KindError: They are neither.
    """
    if not isinstance(over, str | list | tuple):
        raise KindError(
            f"`over` must be names of axes, or a list of cells. Got {type(over).__name__}. Write over=('layer',), say."
        )
    return isinstance(over, str) or (bool(over) and all(isinstance(one, str) for one in over))


CellChoice = Edit | Sequence[Edit] | Mapping[str, Any]
"""A cell given by itself: edits, or what `Intervention.at` is given besides the site."""


_KEYS = ("site", "layer", "pos", "head", "neuron", "batch")


def given_cells(
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
    dicts = [one for one in over if isinstance(one, Mapping)]
    _refuse_unused(interventions, sites, dicts)
    return [[_cell(one, intervention, sites) for one in over] for intervention in interventions or (None,)]


def labels(over: Sequence[Any]) -> tuple[str, ...]:
    """What cells are called: as they are written, with a number where that is the same for several.

    Example:
        >>> labels([{"layer": 0}, {"layer": 0}])
        ("{'layer': 0}", "{'layer': 0} (2)")
    """
    met: Counter[str] = Counter()
    found = []
    for text in map(repr, over):
        met[text] += 1
        found.append(text if met[text] == 1 else f"{text} ({met[text]})")
    return tuple(found)


def _cell(one: Any, intervention: Intervention | None, sites: Sequence[str]) -> tuple[Edit, ...]:
    if isinstance(one, Edit):
        return (one,)
    if isinstance(one, list | tuple) and one and all(isinstance(edit, Edit) for edit in one):
        return tuple(one)
    if not isinstance(one, Mapping):
        raise KindError(
            f"`over` must hold names of axes, or cells: edits, lists of edits, or dicts for `.at`. Got {one!r}. "
            "Write over=('layer',), or over=[{'layer': 3, 'pos': -1}], say."
        )
    if intervention is None:
        raise KindError(
            "`intervention` must be an Intervention where `over` holds dicts. Got None. Write mp.Ablate('zero')."
        )
    return _placed(intervention, one, sites)


def _placed(intervention: Intervention, where: Mapping[str, Any], sites: Sequence[str]) -> tuple[Edit, ...]:
    for key in where:
        if key not in _KEYS:
            near = did_you_mean(str(key), _KEYS)
            raise UnknownNameError(f"`over` must hold dicts of what `.at` takes. Got {key!r} in {dict(where)}. {near}")
    named = (where["site"],) if "site" in where else sites
    if not named:
        raise ValueRefusedError(f"`at` must be a site where a cell has none. Got None with {dict(where)}. Add 'site'.")
    return tuple(intervention.at(**{**where, "site": site}) for site in named)


def _refuse_unused(interventions: Sequence[object], sites: Sequence[str], dicts: Sequence[Mapping[str, Any]]) -> None:
    for name, given, used in (
        ("intervention", interventions, bool(dicts)),
        ("at", sites, any("site" not in one for one in dicts)),
    ):
        if given and not used:
            raise ValueRefusedError(
                f"`{name}` must be left out where every cell of `over` brings its own. Got {given[0]!r}. "
                "Leave it out, or give cells as dicts."
            )
