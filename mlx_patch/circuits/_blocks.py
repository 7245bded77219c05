"""From a model's table to the parts of its blocks; streams without a plain sum are refused with the reason."""

from collections.abc import Mapping

import mlx.core as mx

from mlx_patch.architectures import Layout, Stream, more_than_stream
from mlx_patch.circuits._graph import BlockParts, Graph
from mlx_patch.errors import ArchitectureError
from mlx_patch.sites import Site

_QUERY_KEY_VALUE = ("q", "k", "v")


def refuse_stream(layout: Layout) -> None:
    """Refuse a model whose stream is not the plain sum of what its parts add.

    Raises:
        ArchitectureError: It is such a model; the message says why.
    """
    reason = _why_not(layout)
    if reason:
        raise ArchitectureError(
            f"`model` must have a stream that is the sum of what is added to it. Got {layout.family.name}: {reason}. "
            "Use `mp.attribute`, which needs no edges."
        )


def _why_not(layout: Layout) -> str:
    """Why the stream has no edges, as a clause; empty where it has."""
    family = layout.family
    if family.stream != Stream():
        return family.stream.says
    if layout.n_streams > 1:
        return f"it has {layout.n_streams} streams side by side"
    if layout.times > 1:
        return "its blocks run several times"
    if reason := more_than_stream(layout):
        return reason
    for layer, points in enumerate(layout.points):
        if "mixer_out" not in points and "mlp_out" not in points:
            return f"no site has what block {layer} adds"
    return ""


def writes_by_head(layout: Layout, layer: int) -> bool:
    """Whether what a block's mixer adds is made of `z` alone, which has heads."""
    points = layout.points[layer]
    if not {"z", "attn_out", "mixer_out"} <= set(points):
        return False
    return points["mixer_out"] == points["attn_out"] and layout.family.heads.mixed_in is None


def adds_linearly(layout: Layout, layer: int) -> bool:
    """Whether what a block's heads add is the sum of their shares, and no norm stands behind them."""
    points = layout.points[layer]
    output_projection, added_by = points["z"].path, points["attn_out"].path
    return output_projection == added_by or output_projection.startswith(f"{added_by}.")


def reads_by_head(layout: Layout, layer: int) -> bool:
    """Whether a block's mixer reads the stream through queries, keys and values alone."""
    heads = layout.family.heads
    has_sites = set(_QUERY_KEY_VALUE) <= set(layout.points[layer])
    return has_sites and writes_by_head(layout, layer) and not heads.gated and not heads.indexed


def sites_of_writers(layout: Layout) -> tuple[Site, ...]:
    """The sites whose activations make what is added to the stream, in the order of a forward pass."""
    sites = [Site("embed")]
    for layer, points in enumerate(layout.points):
        if writes_by_head(layout, layer):
            sites.append(Site("z", layer))
        elif "mixer_out" in points:
            sites.append(Site("mixer_out", layer))
        if "mlp_out" in points:
            sites.append(Site("mlp_out", layer))
    return tuple(sites)


def read_by_mlp_alone(layout: Layout) -> tuple[Site, ...]:
    """The sites of the stream that only the MLP reads, and the skip connection carries on."""
    sites: list[Site] = []
    for layer, points in enumerate(layout.points):
        if "resid_mid" in points and points["resid_mid"].carried:
            sites.append(Site("resid_mid", layer))
    return tuple(sites)


def sites_of_readers(layout: Layout) -> tuple[Site, ...]:
    """The sites at which the effect of each reader passes, in the order of a forward pass.

    For an MLP it is the stream that it alone reads, where there is such a site.
    """
    alone = read_by_mlp_alone(layout)
    sites: list[Site] = []
    for layer, points in enumerate(layout.points):
        if reads_by_head(layout, layer):
            sites += [Site(name, layer) for name in _QUERY_KEY_VALUE]
        elif "mixer_out" in points:
            sites.append(Site("mixer_out", layer))
        stream = Site("resid_mid", layer)
        if stream in alone:
            sites.append(stream)
        elif "mlp_out" in points:
            sites.append(Site("mlp_out", layer))
    return (*sites, Site("resid_post", len(layout.blocks) - 1))


def sites_of_streams(layout: Layout) -> tuple[Site, ...]:
    """The sites of the stream where segments to readers begin."""
    alone = read_by_mlp_alone(layout)
    streams = [site for site in layout.sites if site.name in ("resid_pre", "resid_mid")]
    return tuple(site for site in streams if site not in alone)


def graph_of(layout: Layout, activations: Mapping[Site, mx.array]) -> Graph:
    """The graph of a model.

    Args:
        layout: The model's layout.
        activations: Those of a run: `z` and `k` where they have heads.
    """
    blocks = []
    for layer, points in enumerate(layout.points):
        n_heads, n_kv_heads = 0, 0
        if writes_by_head(layout, layer):
            n_heads = activations[Site("z", layer)].shape[2]
        if reads_by_head(layout, layer):
            n_kv_heads = activations[Site("k", layer)].shape[2]
        block = BlockParts(
            layer,
            has_mixer="mixer_out" in points,
            has_mlp="mlp_out" in points,
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            parallel="resid_mid" not in points,
        )
        blocks.append(block)
    return Graph(tuple(blocks), layout.d_model, layout.family.heads.tiled)
