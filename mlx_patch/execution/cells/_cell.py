"""`Cell`: one patched run, and where in the model and in the prompt it begins to differ from the unpatched run."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from mlx_lm.models.cache import make_prompt_cache

from mlx_patch.architectures import Layout, can_be_split
from mlx_patch.engine import keeps_all_keys
from mlx_patch.errors import SelectionError, shown
from mlx_patch.interventions import BY_KEY, Edit, Span
from mlx_patch.sites import SITES, Site


@dataclass(frozen=True)
class Cell:
    """One patched run: one number per metric and example.

    Attributes:
        edits: What the run changes. Edits of one site act in order.
        entry: The first block that differs from the unpatched run: 0 to the number of blocks, which is the final norm.
            None where that block is unknown.
        start: The first position that is computed: no later than the first that differs from the unpatched run.
        changed: The first position that differs, or the last that can matter, where the model can be split there.
        runs_modules_again: Whether its edits run modules a second time in the pass, as weights of experts that were
            not chosen do. A raw path inside such a module would not know which call it means.
        standing: What every run of the sweep changes, the unpatched one too, before what this run changes.
        whole_start: The first position that is computed, where rows run through all blocks; None is `start`.
    """

    edits: tuple[Edit, ...]
    entry: int | None
    start: int
    changed: int = 0
    runs_modules_again: bool = False
    standing: tuple[Edit, ...] = ()
    whole_start: int | None = None

    @property
    def run_edits(self) -> tuple[Edit, ...]:
        """All that a plain run of the cell changes, in order."""
        return (*self.standing, *self.edits)


def cell_of(layout: Layout, edits: Sequence[Edit], length: int, reads: int) -> Cell:
    """A cell, with where in the model and in the prompt it begins.

    Args:
        layout: The model's layout.
        edits: What the run changes.
        length: The positions of the prompt.
        reads: The last position that a metric reads; 0 where one reads all.
    Raises:
        MissingSiteError, SelectionError: A site, layer or position does not exist.
    """
    entry = _first_entry(layout, edits)
    edit_starts = [_first_position(layout, row_edit, length) for edit in edits for row_edit in edit.parts]
    again = any(edit.site == "expert_weights" for edit in edits)
    if not can_be_split(layout):
        return Cell(tuple(edits), entry, 0, runs_modules_again=again)
    start = min([reads, *edit_starts])
    changed = min([reads or length - 1, *edit_starts])
    return Cell(tuple(edits), entry, start, changed, again)


def places_of(layout: Layout, edit: Edit) -> tuple[Site, ...]:
    """The sites that an edit acts on."""
    return layout.select(edit.site, edit.layer)


def _first_entry(layout: Layout, edits: Sequence[Edit]) -> int | None:
    """The first block that any edit changes, the final norm without edits; None where one of them is unknown."""
    entries = [entry_of_site(layout, site) for edit in edits for site in places_of(layout, edit)]
    known_entries = [entry for entry in entries if entry is not None]
    if len(known_entries) < len(entries):
        return None
    return min(known_entries, default=len(layout.blocks))


def entry_of_site(layout: Layout, site: Site) -> int | None:
    """The first block whose input or inside differs once a site is edited; None where that is unknown."""
    if site.is_raw:
        return _entry_of_path(layout, site.raw[0])
    if site.name == "embed":
        return None if layout.family.embed else 0
    if site.name == "final_norm":
        return len(layout.blocks)
    layer = site.layer or 0
    if site.name == "resid_post":  # the stream that leaves a block changes nothing before the next one
        return layer + 1
    return layer


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
    for layer in range(len(layout.blocks)):
        block_path = layout.block_path(layer)
        if path == block_path or path.startswith(f"{block_path}."):
            return layer
    return None


def may_follow_the_norm(layout: Layout, edit: Edit) -> bool:
    """Whether an edit may act on what only positions that are read reach: it needs all positions unembedded."""
    site = places_of(layout, edit)[0]
    return site.is_raw and site.raw[0] != layout.family.final_norm and block_of(layout, site.raw[0]) is None


def _first_position(layout: Layout, edit: Edit, length: int) -> int:
    """The first position from which a shorter run gives the same numbers as a run of the whole prompt."""
    if edit.pos is None:
        return 0
    prompt = Span(0, length, length)
    positions = prompt.local(edit.pos)
    if not positions:
        raise SelectionError(
            f"`pos` must choose a position of this prompt, 0 to {length - 1}. Got {shown(edit.pos)}. Leave it out "
            "for all."
        )
    if edit.site not in SITES:  # whose positions may lie along another axis: only the whole length tells
        return 0
    if edit.site in BY_KEY and not keeps_all_keys(make_prompt_cache(layout.model)):
        return 0  # behind a window the axis of keys would have those of the window alone
    if edit.intervention.by_position and goes_upwards(edit, prompt):
        return min(positions)
    return 0


def goes_upwards(edit: Edit, span: Span) -> bool:
    """Whether each choice of an edit names its positions, heads, neurons, rows and keys in increasing order."""
    positions, keys = None, None
    if edit.pos is not None:
        positions = span.local(edit.pos)
    if edit.key is not None:
        keys = span.keys(edit.key, span.end)
    return all(map(_is_increasing, (positions, edit.head, edit.neuron, edit.batch, keys)))


def _is_increasing(indices: Sequence[int] | None) -> bool:
    """Whether indices increase, and are all counted from the same end."""
    # An intervention may return an array of the shape of the picked entries, which is in the order of the indices, or
    # one of the shape of the activation, which is in the activation's own order. It tells them apart by shape alone.
    # In a run of fewer positions, the second can happen to have the shape of the first. If the indices increase, both
    # orders are the same, so the mistake changes nothing. An index from the end (negative) beside one from the start
    # has no order that is the same for all lengths.
    for before, after in pairwise(indices or ()):
        if before >= after or (before < 0) != (after < 0):
            return False
    return True
