"""Standing edits, which every run of a sweep has: which of them act in a cell's rows, and where these may begin."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from mlx_lm.models.cache import make_prompt_cache

from mlx_patch.architectures import Layout, Place
from mlx_patch.engine import Hook, Phase, can_truncate, keeps_all_keys
from mlx_patch.errors import MissingSiteError
from mlx_patch.execution.cells._cell import Cell, entry_of_site, goes_upwards, places_of
from mlx_patch.execution.cells._entry import edits_before_entry, stream_before, unpatched_site
from mlx_patch.interventions import BY_KEY, Edit, Span
from mlx_patch.sites import SITES, Site

Extent = tuple[int, int]
"""The first and the last position of an edit that must be made in one piece."""


def with_standing(layout: Layout, cells: Sequence[Cell], standing: Sequence[Edit], length: int) -> tuple[Cell, ...]:
    """The cells of a group of prompts with its standing edits: where rows begin so that these give the same numbers.

    Args:
        layout: The model's layout.
        cells: The cells.
        standing: The standing edits of the group.
        length: The positions of the prompts.
    """
    if not standing:
        return tuple(cells)
    runs_modules_again = any(edit.site == "expert_weights" for edit in standing)
    is_located = all(_is_located(layout, site) for edit in standing for site in places_of(layout, edit))
    # A cache that cannot be cut back is copied while the unpatched run gets to each start. That cuts every edit.
    cuts_all = not can_truncate(make_prompt_cache(layout.model))
    settled_extents = {id(edit): extent_of(layout, edit, length, in_pieces=cuts_all, settled=True) for edit in standing}
    extents = {id(edit): extent_of(layout, edit, length, in_pieces=cuts_all) for edit in standing}
    placed_cells = []
    for cell in cells:
        placed = replace(
            cell,
            standing=tuple(standing),
            entry=cell.entry if is_located else None,
            runs_modules_again=cell.runs_modules_again or runs_modules_again,
        )
        later_edits = _edits_behind(layout, placed)
        later_extents = {number: extents[number] for number in later_edits}
        all_extents = {**settled_extents, **later_extents}
        row_extents = all_extents if cuts_all else later_extents
        placed_cells.append(
            replace(
                placed,
                start=_latest_start(row_extents.values(), cell.start),
                whole_start=_latest_start(all_extents.values(), cell.start),
                changed=_latest_start(row_extents.values(), cell.changed),
            )
        )
    return tuple(placed_cells)


def _edits_behind(layout: Layout, cell: Cell) -> set[int]:
    """The ids of the standing edits that a cell may change the activations of: all where its block is unknown."""
    if cell.entry is None:
        return set(map(id, cell.standing))
    return {id(edit) for _, edit in standing_in_rows(layout, cell, cell.entry, grow=True)}


def extent_of(layout: Layout, edit: Edit, length: int, *, in_pieces: bool, settled: bool = False) -> Extent | None:
    """The positions that an edit must be given together; None where it may be given any of them by themselves.

    Args:
        layout: The model's layout.
        edit: The edit.
        length: The positions of the prompt.
        in_pieces: Whether the run is cut, so that keys behind a piece are missing.
        settled: Whether no cell changes what it reads: then nothing behind its last position needs it again.
    """
    extents = [_extent_of_member(layout, member, length, in_pieces, settled) for member in edit.parts]
    bounds = [extent for extent in extents if extent is not None]
    if not bounds:
        return None
    return min(first for first, _ in bounds), max(last for _, last in bounds)


def _extent_of_member(layout: Layout, edit: Edit, length: int, in_pieces: bool, settled: bool) -> Extent | None:
    everything = 0, length - 1
    if edit.site not in SITES:  # whose positions may lie along another axis
        return everything
    if edit.site in BY_KEY and (in_pieces or edit.pos is None or not keeps_all_keys(make_prompt_cache(layout.model))):
        return everything
    if edit.pos is None and edit.intervention.in_pieces:
        return None
    if edit.pos is None:
        return everything
    prompt = Span(0, length, length)
    positions = prompt.local(edit.pos)
    if edit.intervention.by_position and goes_upwards(edit, prompt):
        if edit.site in BY_KEY and not settled:  # it may let a query see keys behind it
            return min(positions), length - 1
        return min(positions), max(positions)
    if settled and not in_pieces:
        return 0, max(positions)
    return everything


def _latest_start(extents: Iterable[Extent | None], start: int) -> int:
    """The latest position up to `start` that lies inside no extent."""
    known_extents = [extent for extent in extents if extent is not None]
    while True:
        crossed = [first for first, last in known_extents if first < start <= last]
        if not crossed:
            return start
        start = min(crossed)


def may_be_cut(layout: Layout, standing: Sequence[Edit], length: int, edges: Sequence[int]) -> bool:
    """Whether standing edits give the same in a run that is cut at some positions."""
    extents = [extent_of(layout, edit, length, in_pieces=True) for edit in standing]
    return all(_latest_start(extents, edge) == edge for edge in edges)


def since(layout: Layout, cell: Cell, start: int, length: int) -> Cell:
    """A cell with those of its standing edits that act from a position on; the others are in the past."""
    if start == 0 or not cell.standing:
        return cell
    return replace(cell, standing=tuple(edit for edit in cell.standing if _acts_since(edit, start, length)))


def _acts_since(edit: Edit, start: int, length: int) -> bool:
    prompt = Span(0, length, length)
    return any(member.pos is None or max(prompt.local(member.pos)) >= start for member in edit.parts)


def standing_in_rows(layout: Layout, cell: Cell, entry: int, grow: bool) -> Iterator[tuple[Site, Edit]]:
    """The standing edits that are made in the rows of a cell, with each of their sites.

    Where rows begin with the stream of the unpatched run, that has the standing edits before.
    """
    for edit in cell.standing:
        for site in places_of(layout, edit):
            if not grow or _is_behind(layout, cell, entry, site):
                yield site, edit


def _is_behind(layout: Layout, cell: Cell, entry: int, site: Site) -> bool:
    """Whether a site is behind what the rows of a cell enter with."""
    site_entry = entry_of_site(layout, site)
    if site_entry is None or site_entry > entry:
        return True
    if site_entry < entry or site == stream_before(entry):
        return False
    place = layout.place(site)
    if not edits_before_entry(cell, layout, entry):
        return not _is_same_event(place, layout.place(unpatched_site(layout, entry)))
    return not _is_same_event(place, layout.place(Site("resid_post", entry - 1)))


def _is_located(layout: Layout, site: Site) -> bool:
    """Whether it is known on which side of each block's entrance an edit acts."""
    if entry_of_site(layout, site) is None:
        return False
    place = layout.place(site)
    return not site.is_raw or not any(_is_same_event(place, entrance) for entrance in _entrances(layout))


def _entrances(layout: Layout) -> Iterator[Place]:
    """Where the stream enters and leaves blocks. A raw path there may act before or after a named site."""
    for layer in range(len(layout.blocks)):
        for name in ("resid_pre", "resid_post"):
            try:
                yield layout.place(Site(name, layer))
            except MissingSiteError:
                continue


def _is_same_event(first: Place, second: Place) -> bool:
    first_hook, second_hook = (Hook(place, _do_nothing, Phase.EDIT) for place in (first, second))
    return first.module is second.module and first_hook.event == second_hook.event


def _do_nothing(value: object, forward_pass: object) -> None:
    """The action of a hook that only says where it is."""
