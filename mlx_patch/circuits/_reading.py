"""What each reader of a block reads and makes, as segments that gradients go back through."""

from collections.abc import Mapping

import mlx.core as mx

from mlx_patch.circuits._graph import BlockParts
from mlx_patch.circuits._host_run import Segment, one_at_a_time
from mlx_patch.sites import Site

Slopes = Mapping[Site, mx.array]
"""How the metric changes with the activation at a site, by site. The axes of the site."""


def segments_of_readers(slopes: Slopes, block: BlockParts) -> list[Segment]:
    """The segments from the stream to the readers of a block, in the order of the readers.

    Each begins at the stream, before the reader's norm. Queries, keys and values are there once for each head. A mixer
    that is not read by head is one segment to `mixer_out`; so is the MLP, with its router, to `mlp_out`. It takes none
    if the slope is known at the stream that it alone reads.

    Args:
        slopes: At `q`, `k` and `v` of the block, or at `mixer_out`; and at `mlp_out`, or at what the MLP alone reads.
        block: The block.
    """
    segments: list[Segment] = []
    stream = Site("resid_pre", block.layer)
    if block.n_kv_heads:
        for name in ("q", "k", "v"):
            by_head = slopes[Site(name, block.layer)]
            segments.append(Segment(stream, Site(name, block.layer), one_at_a_time(by_head)))
    elif block.has_mixer:
        mixer_out = Site("mixer_out", block.layer)
        segments.append(Segment(stream, mixer_out, slopes[mixer_out][None]))
    mlp_out = Site("mlp_out", block.layer)
    if mlp_out in slopes:
        segments.append(Segment(block.mlp_reads, mlp_out, slopes[mlp_out][None]))
    return segments
