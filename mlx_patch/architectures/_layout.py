"""`Layout`: a family's table bound to one model, which finds the module of each site."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NoReturn

import mlx.core as mx
import mlx.nn as nn

from mlx_patch.architectures._family import Family, Point, Side
from mlx_patch.architectures._gathered import gathered
from mlx_patch.architectures._registry import family_of
from mlx_patch.architectures._views import attribute_at
from mlx_patch.errors import (
    ArchitectureError,
    MissingSiteError,
    SelectionError,
    UnknownNameError,
    did_you_mean,
    listed,
    shown,
)
from mlx_patch.sites import SITES, Site


@dataclass(frozen=True)
class Place:
    """A site's place in one model.

    Attributes:
        site: The site.
        module: The module that is tapped.
        point: How the site is read and written there.
        block: The module from which the view's paths are looked up.
    """

    site: Site
    module: nn.Module
    point: Point
    block: nn.Module


@dataclass(frozen=True, eq=False)
class Layout:
    """A table bound to a model.

    Attributes:
        model: The model.
        family: Its table.
        blocks: The blocks that its forward pass walks, in order, once for each walk.
        times: The number of walks.
    """

    model: nn.Module
    family: Family
    blocks: Sequence[nn.Module]
    times: int = 1

    @property
    def d_model(self) -> int:
        """The width of the stream."""
        return self._number(self.family.width)

    @property
    def n_streams(self) -> int:
        """The number of streams that `resid_pre` and `resid_post` hold side by side."""
        if not self.family.streams:
            return 1
        return attribute_at(self.model, self.family.streams)

    @property
    def d_vocab(self) -> int:
        """The number of rows of the unembedding."""
        return self._number(self.family.vocabulary)

    @property
    def n_positions(self) -> int:
        """The number of positions that the model has learned; 0 where a prompt may be of any length."""
        positions = self.family.positions
        if isinstance(positions, int):
            return positions
        return attribute_at(self.model, positions).weight.shape[0]

    def _number(self, path: str | int) -> int:
        if isinstance(path, int):
            return path
        return attribute_at(self.model, path)

    @property
    def _walk_length(self) -> int:
        """The number of layers in one walk of the blocks."""
        return len(self.blocks) // self.times

    @property
    def final_norm(self) -> str:
        """The path of the norm before the unembedding.

        Raises:
            MissingSiteError: The table does not say which module that is.
        """
        if self.family.final_norm is None:
            self._refuse("final_norm")
        return self.family.final_norm

    @cached_property
    def points(self) -> tuple[Mapping[str, Point], ...]:
        """For each block, the point of every site that it has."""
        return tuple(self._block_points(layer) for layer in range(len(self.blocks)))

    @cached_property
    def _selected(self) -> dict[tuple[str, tuple[int, ...] | None], tuple[Site, ...]]:
        """What `select` returned, by its arguments."""
        return {}

    def _block_points(self, layer: int) -> dict[str, Point]:
        points = {name: self._point(name, layer) for name in self.family.block}
        return {name: point for name, point in points.items() if point is not None}

    def _point(self, name: str, layer: int) -> Point | None:
        """The first of a site's points that serves a layer: `part` is a walk of a loop, or a layer of a block."""
        part = layer % self.family.parts
        if self.times > 1:
            part = layer // self._walk_length
        for point in self.family.points(name):
            if point.part in (None, part) and point.serves(self.blocks[layer]):
                return point
        return None

    def block_path(self, layer: int) -> str:
        """The path, from the model, of the block that holds a layer."""
        number = layer % self._walk_length // self.family.parts
        return f"{self.family.blocks}.{number}"

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every named site of the model, in the order in which a forward pass meets them."""
        layered = [name for name, kind in SITES.items() if kind.layered]
        sites = [Site("embed")]
        for layer, points in enumerate(self.points):
            sites += [Site(name, layer) for name in layered if name in points]
        if self.family.final_norm:
            sites.append(Site("final_norm"))
        return tuple(sites)

    def select(self, name: str, layers: tuple[int, ...] | None) -> tuple[Site, ...]:
        """The sites of one name at some layers, or at all that have it; negative layers count from the last.

        Raises:
            MissingSiteError: The architecture, or one of the layers, has no such site; the message says why.
            SelectionError: There is no such layer.
        """
        choice = (name, layers)
        if choice not in self._selected:  # one sweep or attribution asks thousands of times for the same
            self._selected[choice] = self._select(name, layers)
        return self._selected[choice]

    def _select(self, name: str, layers: tuple[int, ...] | None) -> tuple[Site, ...]:
        if name not in SITES or not SITES[name].layered:
            return (Site(name),)
        count = len(self.blocks)
        available = [layer for layer, points in enumerate(self.points) if name in points]
        if not available:
            self._refuse(name)
        for layer in layers or ():
            if not -count <= layer < count:
                raise SelectionError(f"`layer` must lie in {-count} to {count - 1}. Got {layer}.")
            if layer % count not in available:
                self._refuse_layer(name, layer % count, available)
        if layers is None:
            layers = tuple(available)
        return tuple(Site(name, layer % count) for layer in layers)

    def place(self, site: Site) -> Place:
        """Where a site is.

        Raises:
            MissingSiteError: The architecture has no such site; the message says why.
            SelectionError: There is no such layer.
            UnknownNameError: A raw path leads nowhere; the message has the nearest names.
        """
        if site.is_raw:
            return self._raw(site)
        if site.name == "embed":
            return self._embed(site)
        if site.name == "final_norm":
            return self._final_norm(site)
        layers = None if site.layer is None else (site.layer,)
        (site,) = self.select(site.name, layers)
        layer = site.layer or 0
        block, point = self.blocks[layer], self.points[layer][site.name]
        if point.side == "next":
            return replace(self._next(layer), site=site)
        if self.times > 1:
            walk = layer // self._walk_length
            point = replace(point, call=walk * point.calls + (point.call or 0))
        point = gathered(self.model, site, point, block, self.points[layer])
        return Place(site, attribute_at(block, point.path), point, block)

    def _embed(self, site: Site) -> Place:
        point = self.family.embed
        if point is None:
            return replace(self.place(Site("resid_pre", 0)), site=site)
        return Place(site, attribute_at(self.model, point.path), point, self.model)

    def _final_norm(self, site: Site) -> Place:
        path = self.final_norm
        norm = attribute_at(self.model, path)
        last_call = self.times - 1 if self._norm_ends_each_time else None
        return Place(site, norm, Point(path, "output", call=last_call), self.model)

    def _next(self, layer: int) -> Place:
        """The place where the stream that leaves a layer is read, for blocks that return none."""
        if layer + 1 < len(self.blocks):
            return self.place(Site("resid_pre", layer + 1))
        path = self.final_norm
        norm = attribute_at(self.model, path)
        return Place(Site("final_norm"), norm, Point(path, "input", boxed=True), self.model)

    def between(self, layer: int, stream: mx.array) -> mx.array:
        """The stream that enters a block, from the stream that leaves the previous block."""
        starts_walk = layer % self._walk_length == 0
        if starts_walk and self._norm_ends_each_time:
            return attribute_at(self.model, self.final_norm)(stream)
        return stream

    @property
    def _norm_ends_each_time(self) -> bool:
        return self.family.loop is not None and self.times > 1 and self.family.loop.normed(self.model)

    def with_module(self, path: str | None) -> list[int]:
        """The layers whose block has a module at a path."""
        if path is None:
            return []
        point = Point(path, "input")
        return [layer for layer, block in enumerate(self.blocks) if point.serves(block)]

    def inner(self, site: Site, path: str | None, side: Side) -> Place | None:
        """The input or the output of a module in the block of a site; None if the block has none at the path."""
        if path is None or site.layer not in self.with_module(path):
            return None
        block = self.blocks[site.layer]
        return Place(site, attribute_at(block, path), Point(path, side), block)

    def attentions(self) -> list[Place]:
        """Each attention that calls mlx_lm's `scaled_dot_product_attention`, as a place inside it."""
        places: dict[int, Place] = {}
        for layer, points in enumerate(self.points):
            for name, point in points.items():
                if point.recipe == "sdpa":
                    place = self.place(Site(name, layer))
                    places.setdefault(id(place.module), place)
        return list(places.values())

    def _raw(self, site: Site) -> Place:
        path, side, call = site.raw
        modules = dict(self.model.named_modules())
        if path not in modules:
            raise UnknownNameError(f"`site` must be a module's path. Got {shown(path)}. {did_you_mean(path, modules)}")
        point = Point(path, "input" if side == "input" else "output", call=call, item=site.item)
        return Place(site, modules[path], point, self.model)

    def why_not(self, name: str) -> str:
        """Why no block has a site, as a clause."""
        if name in self.family.absent:
            return self.family.absent[name]
        points = self.family.points(name)
        if not points:
            return "its table does not say where that is"
        return _NOWHERE.get(name, f"none of its blocks has {points[0].path!r} where its table looks for it")

    def _refuse(self, name: str) -> NoReturn:
        served = _served(self)
        names = [site_name for site_name in SITES if site_name in served]
        raise MissingSiteError(f"{self.family.name} has no {name!r}: {self.why_not(name)}. It has: {listed(names)}.")

    def _refuse_layer(self, name: str, layer: int, available: list[int]) -> NoReturn:
        raise MissingSiteError(
            f"`layer` must be one that has {name!r}. Got {layer}, whose block has: {listed(self.points[layer])}. "
            f"Layers with it: {listed(available)}."
        )


def _served(layout: Layout) -> set[str]:
    """The sites that some block has."""
    return {name for points in layout.points for name in points}


def layout_of(model: nn.Module, family: Family | None = None) -> Layout:
    """The layout of a model, by its family's registered table or by the table passed in.

    Raises:
        ArchitectureError: There is no table for the model, or the table names modules that are not there.
    """
    family = family or family_of(model)
    times = family.loop.times(model) if family.loop else 1
    blocks = attribute_at(model, family.blocks)
    if not isinstance(blocks, list | tuple):
        raise ArchitectureError(
            f"`family` must be a table of this architecture. Got one whose blocks are {shown(family.blocks)}, "
            "which is not "
            f"a list of modules in {type(model).__module__}. Leave it out to use the registered one."
        )
    walk = [block for block in blocks for _ in range(family.parts)]
    layout = Layout(model, family, times * walk, times)
    _refuse_other_table(layout)
    return layout


def _refuse_other_table(layout: Layout) -> None:
    """Refuse the table of another architecture: one that looks for a module that no block has.

    A site that only some configurations of an architecture have is no sign of that: one that has several points or
    depends on a block's kind, and one whose alternative some block has (`_ALTERNATIVES`).
    """
    served = _served(layout)
    for name, point in layout.family.block.items():
        if name in served or name in layout.family.absent:
            continue
        if isinstance(point, tuple) or point.of or point.given is not None:
            continue
        if not _is_replaced(name, layout.family, served):
            raise ArchitectureError(
                f"`family` must be a table of this architecture. Got one that looks for {shown(point.path)}, "
                "which no block "
                f"of {type(layout.model).__module__} has. Leave it out to use the registered one."
            )


_ROUTING = ("router_logits", "expert_weights")


_ALTERNATIVES: Mapping[str, tuple[str, ...]] = {
    "mlp_post": _ROUTING,
    **dict.fromkeys(_ROUTING, ("mlp_post",)),
    **dict.fromkeys(("q", "k", "v", "rot_q", "rot_k", "attn_scores", "pattern", "z", "attn_out"), ("mixer_out",)),
}
"""The sites that blocks have in place of a site: neurons of a dense MLP or experts; attention or another mixer."""


def _is_replaced(name: str, family: Family, served: set[str]) -> bool:
    """Whether a table has alternatives to a site, and all blocks of the model have these instead.

    Where `mixer_out` is at the point of `attn_out`, every mixer is attention.
    """
    alternatives = {site_name for site_name in _ALTERNATIVES.get(name, ()) if site_name in family.block}
    if not alternatives or not alternatives <= served:
        return False
    if alternatives == {"mixer_out"}:
        return family.points("mixer_out") != family.points("attn_out") and "attn_out" not in served
    return True


_NOWHERE: Mapping[str, str] = {
    "mlp_post": "none of its blocks has a dense MLP",
    **dict.fromkeys(_ROUTING, "none of its blocks has experts"),
}
"""Why no block of a model has a site that others of its architecture have, where that has a name."""


def can_be_split(layout: Layout) -> bool:
    """Whether a prompt may be split over a prompt cache, so that passes may begin behind its first position."""
    return not layout.family.uncut and layout.family.final_norm is not None


def more_than_stream(layout: Layout) -> str:
    """Why the stream that enters a block does not decide what the blocks from there on compute; empty where it does."""
    family = layout.family
    if family.shared:
        return f"later blocks of {family.name} read more than the stream that enters them"
    if family.parts > 1:
        return f"a block of {family.name} is {family.parts} layers, which overlap"
    if family.rereads:
        return f"blocks of {family.name} read the tokens besides the stream"
    if family.final_norm is None:
        return "no table says that only the stream goes from block to block"
    return ""
