"""The last block's MLP, of which only the position that metrics read need be computed.

What the block adds behind it is a sum with the stream at all positions. There the others get what is of no use, and
nothing reads it: the final norm is given the position that is read.
"""

from collections.abc import Iterable

import mlx.core as mx

from mlx_patch.architectures import Layout, Stream
from mlx_patch.engine import ForwardPass, Hook, Phase
from mlx_patch.execution.cells import block_of
from mlx_patch.interventions import Edit, Span
from mlx_patch.sites import SITES, Site

_BEFORE = tuple(SITES)[: tuple(SITES).index("resid_mid")]
"""The sites that come before the MLP reads the stream."""


def mlp_hooks(
    layout: Layout, read: tuple[int, ...] | None, length: int, edits: Iterable[tuple[Site, Edit]]
) -> list[Hook]:
    """The hook that gives the last block's MLP one position; none where it may not, or would have to give several.

    Args:
        layout: The model's layout.
        read: The positions that metrics read; None is all.
        length: The positions of the prompts.
        edits: Every edit that is made in the pass, with each site that it is made at.
    """
    if read is None or len(read) != 1 or not _reads_the_stream(layout):
        return []
    last, of_read = Site("resid_mid", len(layout.blocks) - 1), Span(0, length, length)
    for site, edit in edits:
        if _behind(layout, site, last) and not all(_at(part, read, of_read) for part in edit.parts):
            return []

    def only(value: mx.array, now: ForwardPass) -> mx.array:
        at = read[0] - now.offset
        return value[:, at : at + 1]

    return [Hook(layout.place(last), only, Phase.SLICE)]


def _reads_the_stream(layout: Layout) -> bool:
    """Whether the last block's MLP is given the stream as it is, and what it gives is added to it, and that is all."""
    family, point = layout.family, layout.points[-1].get("resid_mid")
    if layout.times > 1 or family.parts > 1 or family.shared or family.stream != Stream() or family.final_norm is None:
        return False
    return (
        point is not None and point.side == "input" and point.carried == "mlp_out" and not (point.boxed or point.flat)
    )


def _behind(layout: Layout, site: Site, last: Site) -> bool:
    """Whether a site is behind what the last block's mixer adds, or may be."""
    if site.is_raw:
        return block_of(layout, site.raw[0]) in (None, last.layer)
    return site.name == "final_norm" or (site.layer == last.layer and site.name not in _BEFORE)


def _at(edit: Edit, read: tuple[int, ...], prompt: Span) -> bool:
    """Whether an edit at the final norm reads and writes the positions that metrics read, and no others."""
    at_norm = edit.site == "final_norm" and edit.pos is not None and edit.intervention.by_position
    return at_norm and edit.pos is not None and prompt.local(edit.pos) == read
