"""What each writer adds to the stream in the source's run but not in the host's."""

from collections.abc import Mapping

import mlx.core as mx

from mlx_patch.circuits._graph import BlockParts, Graph
from mlx_patch.circuits._host_run import HostRun, Segment, in_turn, one_at_a_time
from mlx_patch.engine import differentiable
from mlx_patch.sites import Site


def writer_differences(host: HostRun, source: Mapping[Site, mx.array], graph: Graph) -> mx.array:
    """The difference of what each writer adds, source minus host.

    A head's share goes through the output projection, any norm behind it and any multiplier, to first order at the
    host. So shares of heads sum to the difference of `attn_out` where that is linear in `z`.

    Args:
        host: The host's run.
        source: What the source has at the writers' sites, in the host's shapes.
        graph: The writers.
    Returns:
        Float32, evaluated, in the order of the writers. Shape `(batch, pos, writer, d_model)`.
    """
    by_part = [_difference(host, source, Site("embed"))]
    with differentiable(host.prompt_run.layout.model):
        with_heads = [block for block in graph.blocks if block.n_heads]
        shares = in_turn(host.shares([segment_of_heads(host, source, block) for block in with_heads]))
        for block in graph.blocks:
            if block.n_heads:
                by_part.append(next(shares))
            elif block.has_mixer:
                by_part.append(_difference(host, source, Site("mixer_out", block.layer)))
            if block.has_mlp:
                by_part.append(_difference(host, source, Site("mlp_out", block.layer)))
        differences = mx.concatenate(by_part, axis=2)
        mx.eval(differences)
    return differences


def segment_of_heads(host: HostRun, source: Mapping[Site, mx.array], block: BlockParts) -> Segment:
    """The segment from `z` to what a block's mixer adds, with each head's difference, source minus host."""
    site = Site("z", block.layer)
    return Segment(site, Site("attn_out", block.layer), one_at_a_time(source[site] - host.activations[site]))


def _difference(host: HostRun, source: Mapping[Site, mx.array], site: Site) -> mx.array:
    change = source[site].astype(mx.float32) - host.activations[site].astype(mx.float32)
    return change[:, :, None]
