"""Models that are split over several machines: what a rank has whole, and what it has only a part of.

`model.shard(group)` splits projections by heads and neurons: each rank computes its own, and their sum, the same on
every rank, is what attention and MLP add to the stream. `model.pipeline(group)` splits by layers: a rank has some of
the blocks, and nothing of the others passes through it.
"""

from collections.abc import Iterable, Iterator

import mlx.core as mx
import mlx.nn as nn

from mlx_patch.architectures._layout import Layout, Place
from mlx_patch.errors import ArchitectureError, MissingSiteError, listed
from mlx_patch.sites import Site

ShardGroup = mx.distributed.Group

WHOLE = (
    "embed", "resid_pre", "mixer_out", "attn_out", "resid_mid", "router_logits", "expert_weights",
    "mlp_out", "resid_post", "final_norm",
)  # fmt: skip
"""The sites that every rank has whole, bit for bit the same, where a model is split by heads and neurons."""


def sharding(model: nn.Module) -> ShardGroup | None:
    """The ranks over which a model's projections are split; None where each is whole."""
    return next(_groups(model.modules()), None)


def _groups(modules: Iterable[nn.Module]) -> Iterator[ShardGroup]:
    """What ranks some modules talk to. mlx_lm keeps that as an attribute, under several names."""
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, ShardGroup) and value.size() > 1:
                yield value


def refuse_parts(layout: Layout, places: Iterable[Place]) -> None:
    """Refuse places of which this rank has only a part: an edit would be made to other heads on every rank.

    Raises:
        MissingSiteError: The message says what is whole.
    """
    groups: dict[int | None, ShardGroup | None] = {}
    for place in places:
        if place.site.name in WHOLE:
            continue
        layer = _block_of(layout, place) if place.site.is_raw else place.site.layer
        if layer not in groups:
            groups[layer] = next(_groups(_around(layout, layer)), None)
        group = groups[layer]
        if group is None or (place.site.is_raw and _is_whole(layout, place)):
            continue
        raise MissingSiteError(
            f"`site` must be whole on every rank. Got {place.site}, of which rank {group.rank()} of {group.size()} has "
            f"its own part only, or may have: the model is sharded by heads and neurons. Whole are {listed(WHOLE)}. "
            "For the rest load the model unsharded."
        )


def _around(layout: Layout, layer: int | None) -> Iterable[nn.Module]:
    """The modules that can split what stands among them: those of a block, or all outside of blocks."""
    if layer is not None:
        return layout.blocks[layer].modules()
    within = {id(module) for own in layout.blocks for module in own.modules()}
    return (module for module in layout.model.modules() if id(module) not in within)


def _block_of(layout: Layout, place: Place) -> int | None:
    path, layers = place.site.raw[0], range(len(layout.blocks))
    of = ((layer, layout.block_path(layer)) for layer in layers)
    return next((layer for layer, block in of if path == block or path.startswith(f"{block}.")), None)


def _is_whole(layout: Layout, raw: Place) -> bool:
    """Whether a raw place is where a site stands that is whole."""
    layer = _block_of(layout, raw)
    names = ("embed", "final_norm") if layer is None else layout.points[layer]
    named = (layout.place(Site(name, layer)) for name in names if name in WHOLE)
    return any(_where(place) == _where(raw) for place in named)


def _where(place: Place) -> tuple[object, ...]:
    return id(place.module), place.point.side, place.point.item


def refuse_missing_blocks(model: nn.Module) -> None:
    """Refuse a model of which other ranks have some blocks.

    Nothing of those passes through this rank, and it has to run in step with the others: no edit could be made on all.

    Raises:
        ArchitectureError: The message says how to load the model instead.
    """
    stages = max((getattr(module, "pipeline_size", 1) for module in model.modules()), default=1)
    if stages > 1:
        raise ArchitectureError(
            f"`model` must have all its blocks on every rank. Got one that `pipeline` split by layers over {stages} "
            "ranks. Split it by heads: sharded_load(repo, tensor_group=group), or load it whole on each."
        )
