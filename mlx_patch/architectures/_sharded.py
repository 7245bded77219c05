"""Models split over several machines: which sites a rank has, and errors for the others.

`model.shard(group)` splits projections by heads and neurons: each rank computes its own, and their sum, the same on
every rank, is what attention and MLP add to the stream. Heads and neurons are gathered (`_gathered`) where it is known
which of them a rank has. `model.pipeline(group)` splits by layers: a rank has some of the blocks, and nothing of the
others passes through it.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.nn.layers.distributed import sum_gradients

from mlx_patch.architectures._gathered import Gathered, ShardGroup
from mlx_patch.architectures._layout import Layout, Place
from mlx_patch.errors import ArchitectureError, MissingSiteError, listed
from mlx_patch.sites import Site

WHOLE = (
    "embed", "resid_pre", "mixer_out", "attn_out", "resid_mid", "router_logits", "expert_weights",
    "mlp_out", "resid_post", "final_norm",
)  # fmt: skip
"""The sites that every rank has whole, bit for bit the same, where a model is split by heads and neurons."""


SUMS_GRADIENTS = frozenset(
    """exaone_moe glm4_moe gpt_oss iquestloopcoder llama minimax_m3_vl ministral3 qwen2 qwen3 qwen3_5 qwen3_5_moe
    qwen3_moe step3p5""".split()
)
"""The modules of mlx_lm whose split models sum gradients over ranks wherever what is whole is split.

Elsewhere a gradient is that of a rank's own heads: of a latent that all heads read, or of a norm over all heads.
"""


def refuse_gradients(model: nn.Module) -> None:
    """Refuse a split model through which gradients would be those of this rank's heads alone.

    Raises:
        ArchitectureError: The message says how to load the model instead.
    """
    group = sharding(model)
    name = type(model).__module__.removeprefix("mlx_lm.models.")
    if group is None or name in SUMS_GRADIENTS:
        return
    raise ArchitectureError(
        f"`model` must sum its gradients over ranks. Got {name}, split over {group.size()} ranks, whose gradients are "
        "those of each rank's own heads. Load the whole model on each rank, or sweep instead."
    )


def sharding(model: nn.Module) -> ShardGroup | None:
    """The ranks over which a model's projections are split; None where each is whole."""
    return next(_groups(model.modules()), None)


def summed_back(model: nn.Module, array: mx.array) -> mx.array:
    """An array that is the same on every rank of a split model, and whose gradient is the sum of all ranks'.

    MLX passes a gradient through a sum over ranks as it is. That is right for what follows the sum on every rank, and
    not for the gradient of a gradient, which comes the other way with each rank's part.
    """
    group = sharding(model)
    if group is None:
        return array
    identity: Any = sum_gradients(group)
    return identity(array)


def _groups(modules: Iterable[nn.Module]) -> Iterator[ShardGroup]:
    """The groups of ranks that some modules communicate with. mlx_lm keeps them as attributes of several names."""
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, ShardGroup) and value.size() > 1:
                yield value


def refuse_parts(layout: Layout, places: Iterable[Place]) -> None:
    """Refuse places that this rank holds only in part, and cannot gather: an edit would be another on each rank.

    Raises:
        MissingSiteError: The message lists the sites that can be read and edited.
    """
    groups: dict[int | None, ShardGroup | None] = {}
    for place in places:
        if _is_seen_whole(place):
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
            f"`site` must be one that every rank has, or can gather. Got {place.site}: the model is sharded by heads "
            f"and neurons, so rank {group.rank()} of {group.size()} may hold only a part. There are: "
            f"{listed(_sites_seen_whole(layout))}. For other sites, load the model unsharded."
        )


def _is_seen_whole(place: Place) -> bool:
    return place.site.name in WHOLE or isinstance(place.point.view, Gathered)


def _sites_seen_whole(layout: Layout) -> list[str]:
    """The names of the sites that every rank has or can gather, in each layer that has them."""
    seen_whole: dict[str, bool] = {}
    for site in layout.sites:
        seen_whole[site.name] = seen_whole.get(site.name, True) and _is_seen_whole(layout.place(site))
    return [name for name, is_seen in seen_whole.items() if is_seen]


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
