"""The last block's MLP, of which only the position that metrics read need be computed.

The block then adds what the MLP returned to the stream, by broadcasting, at all positions. At all but the position
that is read the sum is meaningless, and nothing reads it there: the final norm is given the one position.
"""

from collections.abc import Iterable

import mlx.core as mx

from mlx_patch.architectures import Layout, Stream
from mlx_patch.engine import ForwardPass, Hook, Phase
from mlx_patch.execution.cells import block_of
from mlx_patch.interventions import Edit, Span
from mlx_patch.sites import SITES, Site

_BEFORE_MLP = tuple(SITES)[: tuple(SITES).index("resid_mid")]
"""The sites that come before the MLP reads the stream."""


def mlp_hooks(
    layout: Layout, read: tuple[int, ...] | None, length: int, edits: Iterable[tuple[Site, Edit]]
) -> list[Hook]:
    """The hook that gives the last block's MLP one position; none where that could change what is measured.

    Args:
        layout: The model's layout.
        read: The positions that metrics read; None is all.
        length: The positions of the prompts.
        edits: Every edit that acts in the pass, with each site that it acts at.
    """
    if read is None or len(read) != 1 or not _reads_the_stream(layout):
        return []
    mlp_input = Site("resid_mid", len(layout.blocks) - 1)
    prompt = Span(0, length, length)
    for site, edit in edits:
        if _is_behind(layout, site, mlp_input) and not _acts_where_read(edit, read, prompt):
            return []

    def slice_position(value: mx.array, forward_pass: ForwardPass) -> mx.array:
        position = read[0] - forward_pass.offset
        return value[:, position : position + 1]

    return [Hook(layout.place(mlp_input), slice_position, Phase.SLICE)]


def _reads_the_stream(layout: Layout) -> bool:
    """Whether the last block's MLP only reads the stream as it is, and adds its output to the stream."""
    family = layout.family
    if layout.times > 1 or family.parts > 1 or family.shared or family.stream != Stream() or family.final_norm is None:
        return False
    point = layout.points[-1].get("resid_mid")
    if point is None or point.boxed or point.flat:
        return False
    return point.side == "input" and point.carried == "mlp_out"


def _is_behind(layout: Layout, site: Site, mlp_input: Site) -> bool:
    """Whether a site is behind the point where the last block's MLP reads the stream, or may be."""
    if site.is_raw:
        return block_of(layout, site.raw[0]) in (None, mlp_input.layer)
    if site.name == "final_norm":
        return True
    return site.layer == mlp_input.layer and site.name not in _BEFORE_MLP


def _acts_where_read(edit: Edit, read: tuple[int, ...], prompt: Span) -> bool:
    """Whether an edit is at the final norm, and reads and writes the positions that metrics read, and no others."""
    return all(_row_edit_acts_where_read(row_edit, read, prompt) for row_edit in edit.parts)


def _row_edit_acts_where_read(edit: Edit, read: tuple[int, ...], prompt: Span) -> bool:
    if edit.site != "final_norm" or edit.pos is None or not edit.intervention.by_position:
        return False
    return prompt.local(edit.pos) == read
