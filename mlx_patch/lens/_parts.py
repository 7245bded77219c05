"""The parts of the stream: the embedding, and what each layer's mixer and MLP add."""

import mlx.core as mx
import numpy as np

from mlx_patch.architectures import Layout
from mlx_patch.cache import ActivationCache
from mlx_patch.errors import ArchitectureError
from mlx_patch.sites import Site

_ROUNDED = {mx.float32: 1e-4, mx.bfloat16: 0.1, mx.float16: 0.02}
"""How much of the stream may be missing from the sum of its parts, as a fraction: what is rounded on the way."""


def sites_of_parts(layout: Layout) -> tuple[Site, ...]:
    """Where the parts of the stream are: `mixer_out`, or `attn_out` in layers without, and `mlp_out`."""
    sites = [Site("embed")]
    for layer, points in enumerate(layout.points):
        mixer = "mixer_out" if "mixer_out" in points else "attn_out"
        names = [name for name in (mixer, "mlp_out") if name in points]
        sites += [Site(name, layer) for name in names]
    return tuple(sites)


def stream_parts(layout: Layout, cache: ActivationCache, stream: mx.array) -> tuple[dict[Site, mx.array], mx.array]:
    """Each part of a stream, in float32, and what is missing from their sum: what the model rounded on the way.

    Args:
        layout: The model's layout.
        cache: Activations at `sites_of_parts`.
        stream: The stream that leaves the last block. Shape `(batch, pos, d_model)`.
    Raises:
        ArchitectureError: The parts do not add up to the stream.
    """
    addends = {site: cache[site].astype(mx.float32) for site in sites_of_parts(layout)}
    widths = {array.shape for array in addends.values()}
    if len(widths) > 1 or stream.shape not in widths:
        raise _not_a_sum(layout)
    wide = stream.astype(mx.float32)
    missing = wide - sum(addends.values(), mx.zeros(wide.shape))
    share = np.array(mx.linalg.norm(missing) / mx.linalg.norm(wide))
    if float(share) > _ROUNDED.get(stream.dtype, 1e-4):
        raise _not_a_sum(layout)
    return addends, missing


def _not_a_sum(layout: Layout) -> ArchitectureError:
    rule = layout.family.stream.says
    if layout.times > 1:
        rule = f"{rule}, and a norm stands between the walks of its blocks"
    return ArchitectureError(
        f"`model` must add up its stream from embedding, mixers and MLPs. Got {layout.family.name}, where {rule}. "
        "Its lens, and sweeps over its parts, work."
    )


def part_name(site: Site) -> str:
    """A part's name: "embed", "mlp_out.3"."""
    if site.layer is None:
        return site.name
    return f"{site.name}.{site.layer}"


def along(direction: mx.array, addend: mx.array) -> np.ndarray:
    """What a part adds in a direction, summed over the last axis, at the one position. Shape `(batch,)`."""
    return np.array((addend * direction).sum(axis=-1)[:, 0])
