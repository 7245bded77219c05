"""The shares of heads, neurons and source positions in what a layer adds to a logit.

What attention adds is a linear map of `z`, and what an MLP adds is one of `mlp_post`. So a direction of the stream is
taken back through the map, and multiplied with the activation.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_patch.architectures import Layout, own_input
from mlx_patch.cache import ActivationCache
from mlx_patch.errors import ArchitectureError
from mlx_patch.lens._frozen_norm import FrozenNorm, frozen_norm, relative_distance
from mlx_patch.sites import Site

_SAME = {mx.float32: 1e-3, mx.bfloat16: 0.05, mx.float16: 0.02}
"""How far a map may be from what the model computed, as a fraction of it."""


@dataclass(frozen=True, eq=False)
class Shares:
    """The shares of some layers.

    Attributes:
        layers: The layers.
        names: Of the other axis, its coordinates.
        values: Shape `(layer, coordinate, batch)`.
    """

    layers: tuple[int, ...]
    names: tuple[int, ...]
    values: np.ndarray


def head_shares(layout: Layout, cache: ActivationCache, direction: mx.array) -> Shares:
    """What each head of each attention adds. `cache` has `z` and `attn_out` at the one position."""
    rows = []
    layers = cache.layers("z")
    for layer in layers:
        taken_back = _back(layout, cache, Site("z", layer), Site("attn_out", layer), direction)
        rows.append((cache["z", layer].astype(mx.float32) * taken_back).sum(axis=-1)[:, 0])
    return _shares(layers, rows)


def neuron_shares(layout: Layout, cache: ActivationCache, direction: mx.array) -> Shares:
    """What each neuron of each dense MLP adds. `cache` has `mlp_post` and `mlp_out` at the one position."""
    rows = []
    layers = cache.layers("mlp_post")
    for layer in layers:
        taken_back = _back(layout, cache, Site("mlp_post", layer), Site("mlp_out", layer), direction)
        rows.append((cache["mlp_post", layer].astype(mx.float32) * taken_back)[:, 0])
    return _shares(layers, rows)


def source_shares(
    layout: Layout, cache: ActivationCache, all_values: Mapping[Site, mx.array], direction: mx.array
) -> Shares:
    """What all heads of an attention bring from each position.

    Args:
        layout: The model's layout.
        cache: `z`, `attn_out` and `pattern` at the one position.
        all_values: `v` of each layer, at all positions.
        direction: What the stream is multiplied with.
    """
    rows = []
    layers = cache.layers("z")
    for layer in layers:
        taken_back = _back(layout, cache, Site("z", layer), Site("attn_out", layer), direction)[:, 0]
        if Site("v", layer) not in all_values:
            raise _no_map(layout, Site("z", layer), "its values are another layer's")
        pattern = cache["pattern", layer].astype(mx.float32)[:, :, 0]
        own_values = all_values[Site("v", layer)].astype(mx.float32)
        values = _by_query_head(layout, own_values, pattern.shape[1])
        if values.shape[1] != pattern.shape[2]:
            raise _no_map(layout, Site("z", layer), "its keys are more than its positions")
        gathered = mx.einsum("bhs,bshd->bhd", pattern, values)
        if relative_distance(gathered, cache["z", layer][:, 0]) > _tolerance(cache["z", layer]):
            raise _no_map(layout, Site("z", layer), "z is not `pattern` times `v`: it is gated, normed or mixed")
        rows.append(mx.einsum("bhs,bshd,bhd->bs", pattern, values, taken_back))
    return _shares(layers, rows)


def _shares(layers: Sequence[int], rows: Sequence[mx.array]) -> Shares:
    """The shares of layers as one array; NaN where a layer has fewer."""
    width = max(row.shape[1] for row in rows)
    padded = [mx.pad(row, [(0, 0), (0, width - row.shape[1])], constant_values=mx.array(mx.nan)) for row in rows]
    values = mx.stack(padded).swapaxes(1, 2)
    return Shares(tuple(layers), tuple(range(width)), np.array(values))


def _by_query_head(layout: Layout, values: mx.array, n_heads: int) -> mx.array:
    """Values with a copy for each query head that reads them. Shape `(batch, pos, head, d_head)`."""
    n_copies = n_heads // values.shape[2]
    if layout.family.heads.tiled:
        return mx.tile(values, (1, 1, n_copies, 1))
    return mx.repeat(values, n_copies, axis=2)


@dataclass(frozen=True, eq=False)
class Factor:
    """A number by which a layer multiplies what it adds."""

    factor: mx.array

    def back(self, direction: mx.array) -> mx.array:
        """What a direction behind it is before it."""
        return self.factor * direction

    def through(self, part: mx.array) -> mx.array:
        """What a part is behind it."""
        return self.factor * part


@dataclass(frozen=True, eq=False)
class Projection:
    """The linear map from an activation to what its layer adds, in one run.

    Attributes:
        module: The first step: the projection, and maybe its bias. Of a sharded model, all ranks' together.
        raw: What the run gave it. Shape `(batch, pos, width)`.
        behind: What follows: a number, or a norm with the scale of the run.
    """

    module: Callable[[mx.array], mx.array]
    raw: mx.array
    behind: Factor | FrozenNorm

    def of(self, raw: mx.array) -> mx.array:
        """What a part of the input adds, without any bias. Float32, shape `(batch, pos, d_model)`."""
        bias = self.module(mx.zeros_like(raw))
        return self.behind.through((self.module(raw) - bias).astype(mx.float32))


def projection_of(layout: Layout, cache: ActivationCache, site: Site, added: Site) -> Projection:
    """The map from one site of a layer to what it adds.

    Raises:
        ArchitectureError: What is added is not a linear map of it, as far as the table says.
    """
    place = layout.place(site)
    if place.point.side != "input" or place.point.flat or place.point.call is not None:
        raise _no_map(layout, site, "no module's input holds it alone")
    activation = cache[site]
    raw = activation.reshape(*activation.shape[:2], -1)
    read_back = place.point.view.read(own_input(place.point, raw), place.block)
    if relative_distance(read_back, activation) > 0:
        raise _no_map(layout, site, "the module that reads it reads more")

    def module(raw_input: mx.array) -> mx.array:
        return place.module(own_input(place.point, raw_input))

    behind = _behind_projection(layout, added, module(raw), cache[added])
    if behind is None:
        raise _no_map(layout, site, f"{added.name} is neither that projection, nor it times a number, nor its norm")
    return Projection(module, raw, behind)


def _back(layout: Layout, cache: ActivationCache, site: Site, added: Site, direction: mx.array) -> mx.array:
    """The derivative of what a layer adds along a direction by the activation that it is made from.

    Raises:
        ArchitectureError: What is added is not a linear map of it, as far as the table says.
    """
    projection = projection_of(layout, cache, site, added)
    behind = projection.behind.back(direction)

    def along(raw_input: mx.array) -> mx.array:
        return (projection.module(raw_input).astype(mx.float32) * behind).sum()

    return mx.grad(along)(projection.raw).astype(mx.float32).reshape(cache[site].shape)


def _behind_projection(
    layout: Layout, added: Site, projected: mx.array, output: mx.array
) -> Factor | FrozenNorm | None:
    """What stands between a projection and what is added: a number or a norm. None where it is neither."""
    if projected.shape != output.shape:
        return None
    wide, tolerance = projected.astype(mx.float32), _tolerance(output)
    factor = (wide * output).sum() / mx.maximum((wide * wide).sum(), 1e-30)
    if relative_distance(output, factor * wide) <= tolerance:
        return Factor(factor)
    place = layout.place(added)
    if place.point.side != "output":
        return None
    norm: Callable[[mx.array], mx.array] = place.module
    try:
        return frozen_norm(norm, projected, output)
    except (TypeError, ValueError):  # it is a module of another kind, which takes other arguments or widths
        return None


def _tolerance(array: mx.array) -> float:
    return _SAME.get(array.dtype, 1e-3)


def _no_map(layout: Layout, site: Site, why: str) -> ArchitectureError:
    return ArchitectureError(
        f"`by` must be one that this model's layers can be taken apart by. Got {layout.family.name} at {site}: {why}. "
        "Use by='part'."
    )
