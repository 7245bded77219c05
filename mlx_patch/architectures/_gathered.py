"""Heads and neurons that are spread over ranks, seen whole on each.

`model.shard(group)` gives rank r of N the heads from r * H / N on, and neurons likewise: it cuts each projection, and
each part of a fused one, into N equal runs in the order of ranks. A site of which a rank holds such a run is gathered
before it is read or edited, so every rank sees what the whole model has and makes the same edit; then each goes on with
its own run. All ranks run the same passes with the same hooks, so all come to each gathering.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from typing_extensions import override

from mlx_patch.architectures._family import Point
from mlx_patch.architectures._views import ByHead, View, attribute_at
from mlx_patch.sites import Site

ShardGroup = mx.distributed.Group

_SPLIT_OUTPUT = (nn.AllToShardedLinear, nn.QuantizedAllToShardedLinear)
_SPLIT_INPUT = (nn.ShardedToAllLinear, nn.QuantizedShardedToAllLinear)

_SPLIT_AS: Mapping[str, str] = {
    **{name: name for name in ("q", "k", "v", "z", "mlp_post")},
    **dict.fromkeys(("rot_q", "attn_scores", "pattern"), "z"),
    "rot_k": "v",
}
"""For each site with heads or neurons, the site at a projection that tells how they are spread."""

_KV_HEADS = ("num_key_value_heads", "num_attention_groups")
"""What configs of mlx_lm call the number of KV heads."""


@dataclass(frozen=True)
class Gathered(View):
    """What all ranks hold of a site's array, one after the other.

    Attributes:
        view: The place of this rank's part in the raw array.
        group: The ranks.
        axis: The axis along which the parts stand.
    """

    view: View
    group: ShardGroup
    axis: int

    @override
    def read(self, raw: mx.array, block: nn.Module) -> mx.array:
        own_heads = self.view.read(raw, block)
        by_rank = mx.distributed.all_gather(own_heads[None], group=self.group)
        axis = self.axis % own_heads.ndim
        return mx.moveaxis(by_rank, 0, axis).flatten(axis, axis + 1)

    @override
    def write(self, raw: mx.array, new: mx.array, block: nn.Module) -> mx.array:
        return self.view.write(raw, _own_run(self.group, self.axis % new.ndim)(new), block)


def _own_run(group: ShardGroup, axis: int) -> Callable[[mx.array], mx.array]:
    """A function that cuts this rank's run out of what is the same on all; its gradient is that of all ranks' runs."""

    def cut(whole: mx.array) -> mx.array:
        size = whole.shape[axis] // group.size()
        start = group.rank() * size
        return whole[(*[slice(None)] * axis, slice(start, start + size))]

    differentiable_cut: Any = mx.custom_function(cut)

    @differentiable_cut.vjp
    def sum_over_ranks(whole: mx.array, slope: mx.array, output: mx.array) -> mx.array:
        by_rank = [mx.zeros_like(slope)] * group.size()
        by_rank[group.rank()] = slope
        return mx.distributed.all_sum(mx.concatenate(by_rank, axis=axis), group=group)

    return differentiable_cut


def own_input(point: Point, raw: mx.array) -> mx.array:
    """What this rank's module takes of the input of a whole projection; all of it where a rank has all.

    Args:
        point: Where a site is a module's whole input.
        raw: The input, flat. Shape `(..., width)`.
    """
    if not isinstance(point.view, Gathered):
        return raw
    return _own_run(point.view.group, raw.ndim - 1)(raw)


def gathered(model: nn.Module, site: Site, point: Point, block: nn.Module, points: Mapping[str, Point]) -> Point:
    """A point that sees the whole array of a site, if this rank has a part of it and knows which; else the point.

    Args:
        model: The model.
        site: The site.
        point: Where it is.
        block: Its block.
        points: The points of all sites of the block.
    """
    group = _spread_over(model, site.name, block, points)
    if group is None:
        return point
    axis = -1
    if "head" in site.axes:
        axis = site.axes.index("head")
    return replace(point, view=Gathered(point.view, group, axis))


def _spread_over(model: nn.Module, name: str, block: nn.Module, points: Mapping[str, Point]) -> ShardGroup | None:
    """The ranks that each hold an equal run of the heads or neurons of a site; None if that is not known."""
    projection = points.get(_SPLIT_AS.get(name, ""))
    if projection is None:
        return None
    module = attribute_at(block, projection.path)
    is_output = projection.side == "output" and isinstance(module, _SPLIT_OUTPUT)
    is_input = projection.side == "input" and isinstance(module, _SPLIT_INPUT)
    if not (is_output or is_input) or module.group.size() == 1:
        return None
    if name in ("k", "v", "rot_k") and not _has_each_once(model, projection.view, block, points, module.group):
        return None
    return module.group


def _has_each_once(
    model: nn.Module, view: View, block: nn.Module, points: Mapping[str, Point], group: ShardGroup
) -> bool:
    """Whether no two ranks hold the same KV head. Where there are fewer than ranks, some models repeat them."""
    query_view = points["z"].view
    if isinstance(query_view, ByHead) and getattr(view, "heads", None) == query_view.heads:
        return True  # each query head has keys of its own
    n_heads = _config_number(model, _KV_HEADS)
    if n_heads is None or not isinstance(query_view, ByHead):
        return False
    return n_heads % group.size() == 0


def _config_number(model: nn.Module, names: tuple[str, ...]) -> int | None:
    """A number of the config, by the first of some names that it has; it may be that of a text tower."""
    for module in (model, *model.children().values()):
        config: Any = getattr(module, "args", None)
        for owner, name in product((config, getattr(config, "text", None)), names):
            number = getattr(owner, name, None)
            if isinstance(number, int):
                return number
    return None
