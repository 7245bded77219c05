"""Models split over several machines: which sites a rank holds whole, and errors for the others.

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
    """The groups of ranks that some modules communicate with. mlx_lm keeps them as attributes of several names."""
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, ShardGroup) and value.size() > 1:
                yield value


def refuse_parts(layout: Layout, places: Iterable[Place]) -> None:
    """Refuse places that this rank holds only in part: an edit would change different heads on each rank.

    Raises:
        MissingSiteError: The message lists the sites that are whole.
    """
    groups: dict[int | None, ShardGroup | None] = {}
    for place in places:
        if place.site.name in WHOLE:
            continue
        layer = place.site.layer
        if place.site.is_raw:
            layer = _layer_of(layout, place)
        if layer not in groups:
            groups[layer] = next(_groups(_around(layout, layer)), None)
        group = groups[layer]
        if group is None or (place.site.is_raw and _is_whole(layout, place)):
            continue
        raise MissingSiteError(
            f"`site` must be whole on every rank. Got {place.site}: the model is sharded by heads and neurons, so rank "
            f"{group.rank()} of {group.size()} may hold only a part. Whole sites are {listed(WHOLE)}. For other sites, "
            "load the model unsharded."
        )


def _around(layout: Layout, layer: int | None) -> Iterable[nn.Module]:
    """The modules that may split a value among them: those of a block, or all outside of blocks."""
    if layer is not None:
        return layout.blocks[layer].modules()
    in_blocks = {id(module) for block in layout.blocks for module in block.modules()}
    return (module for module in layout.model.modules() if id(module) not in in_blocks)


def _layer_of(layout: Layout, place: Place) -> int | None:
    """The first layer whose block holds a raw place; None outside of blocks."""
    path, *_ = place.site.raw
    for layer in range(len(layout.blocks)):
        block_path = layout.block_path(layer)
        if path == block_path or path.startswith(f"{block_path}."):
            return layer
    return None


def _is_whole(layout: Layout, raw: Place) -> bool:
    """Whether a raw place is the place of a whole site."""
    layer = _layer_of(layout, raw)
    names = ("embed", "final_norm") if layer is None else layout.points[layer]
    whole_places = (layout.place(Site(name, layer)) for name in names if name in WHOLE)
    return any(_location(place) == _location(raw) for place in whole_places)


def _location(place: Place) -> tuple[object, ...]:
    return id(place.module), place.point.side, place.point.item


def refuse_missing_blocks(model: nn.Module) -> None:
    """Refuse a model whose blocks are spread over ranks.

    Nothing of those passes through this rank, and it has to run in step with the others: no edit could be made on all.

    Raises:
        ArchitectureError: The message says how to load the model instead.
    """
    stages = max((getattr(module, "pipeline_size", 1) for module in model.modules()), default=1)
    if stages > 1:
        raise ArchitectureError(
            f"`model` must have all its blocks on every rank. Got one that `pipeline` split by layers over {stages} "
            "ranks. Split it by heads: sharded_load(repo, tensor_group=group), or load the whole model on each rank."
        )
