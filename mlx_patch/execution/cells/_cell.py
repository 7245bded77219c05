"""`Cell`: one edited run, and what of the model it needs to have computed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mlx_lm.models.cache import make_prompt_cache

from mlx_patch.architectures import Layout, can_be_split
from mlx_patch.engine import keeps_all_keys
from mlx_patch.errors import SelectionError
from mlx_patch.interventions import BY_KEY, Edit, Span
from mlx_patch.sites import SITES, Site


@dataclass(frozen=True)
class Cell:
    """One edited run: one number per metric and example.

    Attributes:
        edits: What is done in it. Edits of one site act in order.
        entry: The first block that differs from the unedited run: 0 to the number of blocks, which is the final norm.
            None where nobody knows.
        start: The first position that is computed: no later than the first that differs from the unedited run.
        changed: The first position that differs, or the last that can matter, where the model can be split there.
    """

    edits: tuple[Edit, ...]
    entry: int | None
    start: int
    changed: int = 0


def cell_of(layout: Layout, edits: Sequence[Edit], length: int, reads: int) -> Cell:
    """A cell, with where in the model and in the prompt it begins.

    Args:
        layout: The model's layout.
        edits: What is done in it.
        length: The positions of the prompt.
        reads: The last position that a metric reads; 0 where one reads all.
    Raises:
        MissingSiteError, SelectionError: A site, layer or position that is not there.
    """
    entries = [entry for edit in edits for entry in _entries(layout, edit)]
    known = [entry for entry in entries if entry is not None]
    entry = min(known) if len(known) == len(entries) else None
    firsts = [_first(layout, part, length) for edit in edits for part in edit.parts]
    if not can_be_split(layout):
        return Cell(tuple(edits), entry, 0)
    return Cell(tuple(edits), entry, min(reads, *firsts), min(reads or length - 1, *firsts))


def places_of(layout: Layout, edit: Edit) -> tuple[Site, ...]:
    """The sites that an edit acts on."""
    return layout.select(edit.site, edit.layer)


def _entries(layout: Layout, edit: Edit) -> Iterator[int | None]:
    for site in places_of(layout, edit):
        if site.is_raw:
            yield _entry_of_path(layout, site.raw[0])
        elif site.name == "embed":
            yield None if layout.family.embed else 0
        elif site.name == "final_norm":
            yield len(layout.blocks)
        else:
            yield (site.layer or 0) + (site.name == "resid_post")


def _entry_of_path(layout: Layout, path: str) -> int | None:
    """The block that a module is in, or the number of blocks for the final norm.

    None for a module that is anywhere else, or in a block that is walked several times.
    """
    if layout.times > 1 or layout.family.parts > 1:
        return None
    if path == layout.family.final_norm:
        return len(layout.blocks)
    return block_of(layout, path)


def block_of(layout: Layout, path: str) -> int | None:
    """The first layer whose block has a module at a path; None for a module outside the blocks."""
    paths = ((layer, layout.block_path(layer)) for layer in range(len(layout.blocks)))
    return next((layer for layer, block in paths if path == block or path.startswith(f"{block}.")), None)


def may_follow_the_norm(layout: Layout, edit: Edit) -> bool:
    """Whether an edit is made where only positions that are read may come: it needs all positions unembedded."""
    site = places_of(layout, edit)[0]
    return site.is_raw and site.raw[0] != layout.family.final_norm and block_of(layout, site.raw[0]) is None


def _first(layout: Layout, edit: Edit, length: int) -> int:
    """The first position that an edit changes, as far as a run of the positions from there on gives the same."""
    if edit.pos is None:
        return 0
    whole = Span(0, length, length)
    local = whole.local(edit.pos)
    if not local:
        raise SelectionError(
            f"`pos` must choose a position of this prompt, 0 to {length - 1}. Got {edit.pos!r}. Leave it out for all."
        )
    if edit.site not in SITES:  # whose positions may lie along another axis: only the whole length tells
        return 0
    if edit.site in BY_KEY and not keeps_all_keys(make_prompt_cache(layout.model)):
        return 0  # behind a window the axis of keys would have those of the window alone
    return min(local) if edit.intervention.by_position and goes_upwards(edit, whole) else 0


def goes_upwards(edit: Edit, span: Span) -> bool:
    """Whether each choice of an edit names its positions, heads, neurons and rows in increasing order."""
    local = None if edit.pos is None else span.local(edit.pos)
    return _upwards(local, edit.head, edit.neuron, edit.batch)


def _upwards(*picks: Sequence[int] | None) -> bool:
    """Whether each choice goes upwards.

    An array of the shape of what is picked is in the order of the picks; one of the shape of the activation is not. In
    a run of fewer positions the first can have the shape of the second. Only where both orders agree is that no matter.
    """
    pairs = (pair for pick in picks for pair in pairwise(pick or ()))
    return all(before < after and (before < 0) == (after < 0) for before, after in pairs)
