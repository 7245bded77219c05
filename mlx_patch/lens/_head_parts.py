"""`head_parts`: what each head of a layer adds to the stream, and what is left."""

from dataclasses import dataclass
from typing import final

import mlx.core as mx
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.cache import ActivationCache
from mlx_patch.errors import MissingSiteError
from mlx_patch.lens._shares import projection_of
from mlx_patch.model import HookedModel, require_hooked
from mlx_patch.sites import Site


@final
@dataclass(frozen=True, eq=False, repr=False)
class HeadParts:
    """What each head of a layer adds to the stream.

    Attributes:
        values: Float32, shape `(batch, pos, head, d_model)`.
        rest: What `attn_out` has besides them: biases, and what the model rounded. Float32, shape
            `(batch, pos, d_model)`.
    """

    values: mx.array
    rest: mx.array

    @override
    def __repr__(self) -> str:
        size = (mx.linalg.norm(self.rest) / mx.maximum(mx.linalg.norm(self.values.sum(axis=2)), 1e-30)).item()
        return f"HeadParts({self.values.shape[2]} heads, rest {size:.1e} of their sum)"


def head_parts(model: HookedModel, cache: ActivationCache, layer: int) -> HeadParts:
    """What each head of a layer adds to the stream: its part of `attn_out`.

    A head's `z` goes through the output projection, and through what follows: a multiplier, or a norm with the scale
    that it had in the run. So the heads and the rest sum to `attn_out`.

    Args:
        model: The model.
        cache: A run of it, with `z` and `attn_out` of the layer.
        layer: The layer, from 0.
    Returns:
        Float32. With as many positions as the cache holds, it is as large as the stream times the number of heads.
    Raises:
        KindError: `model` is no HookedModel.
        MissingSiteError: The cache lacks `z` or `attn_out` there, or the model has none.
        ArchitectureError: What attention adds is not a linear map of `z`, as far as the table says.
    Source:
        Elhage et al. 2021, https://transformer-circuits.pub/2021/framework, on attention heads as independent parts.
    """
    require_hooked("model", model)
    arguments.instance("cache", cache, ActivationCache)
    layer = arguments.place("layer", layer, model.n_layers)
    site, added = Site("z", layer), Site("attn_out", layer)
    for needed in (site, added):
        model.layout.place(needed)
        if needed not in cache:
            raise MissingSiteError(
                f"The cache must hold {needed}. It has: {cache!r}. Capture `sites=('z', 'attn_out')`."
            )
    projection, z = projection_of(model.layout, cache, site, added), cache[site]
    heads = []
    for head in range(z.shape[2]):
        is_head = mx.arange(z.shape[2])[:, None] == head
        alone = mx.where(is_head, z, mx.zeros_like(z))
        heads.append(projection.of(alone.reshape(projection.raw.shape)))
    values = mx.stack(heads, axis=2)
    rest = cache[added].astype(mx.float32) - values.sum(axis=2)
    mx.eval(values, rest)
    return HeadParts(values, rest)
