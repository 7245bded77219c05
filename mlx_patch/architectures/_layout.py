"""`Layout`: a family's table bound to one model. It says which module serves a site."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NoReturn

import mlx.core as mx
import mlx.nn as nn

from mlx_patch.architectures._family import Family, Point, Side
from mlx_patch.architectures._registry import family_of
from mlx_patch.architectures._views import attribute
from mlx_patch.errors import ArchitectureError, MissingSiteError, SelectionError, UnknownNameError, did_you_mean, listed
from mlx_patch.sites import SITES, Site


@dataclass(frozen=True)
class Place:
    """A site's place in one model.

    Attributes:
        site: The site.
        module: The module that is tapped.
        point: What is read and written there.
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
        blocks: The blocks that its forward pass walks, in order; where it walks them several times, so often.
        times: How often it walks them.
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
        """How many streams `resid_pre` and `resid_post` hold side by side."""
        return attribute(self.model, self.family.streams) if self.family.streams else 1

    @property
    def d_vocab(self) -> int:
        """The number of rows of the unembedding."""
        return self._number(self.family.vocabulary)

    @property
    def n_positions(self) -> int:
        """How many positions the model has learned; 0 where a prompt may be of any length."""
        stands = self.family.positions
        return stands if isinstance(stands, int) else attribute(self.model, stands).weight.shape[0]

    def _number(self, stands: str | int) -> int:
        return stands if isinstance(stands, int) else attribute(self.model, stands)

    @property
    def final_norm(self) -> str:
        """The path of the norm before the unembedding.

        Raises:
            MissingSiteError: Nobody knows which module that is.
        """
        if self.family.final_norm is None:
            self._refuse("final_norm")
        return self.family.final_norm

    @cached_property
    def points(self) -> tuple[Mapping[str, Point], ...]:
        """For each block, the point of every site that it has."""
        return tuple(
            {name: point for name in self.family.block if (point := self._point(name, layer))}
            for layer in range(len(self.blocks))
        )

    def _point(self, name: str, layer: int) -> Point | None:
        walk = layer // (len(self.blocks) // self.times)
        block, parts = self.blocks[layer], (None, walk if self.times > 1 else layer % self.family.parts)
        return next((p for p in self.family.points(name) if p.part in parts and p.serves(block)), None)

    def block_path(self, layer: int) -> str:
        """The path, from the model, of the block that a layer is, or is a part of."""
        number = layer % (len(self.blocks) // self.times) // self.family.parts
        return f"{self.family.blocks}.{number}"

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every named site of the model, in the order in which a forward pass meets them."""
        layered = [name for name, kind in SITES.items() if kind.layered]
        inner = [Site(name, layer) for layer, has in enumerate(self.points) for name in layered if name in has]
        return (Site("embed"), *inner, *([Site("final_norm")] if self.family.final_norm else []))

    def select(self, name: str, layers: tuple[int, ...] | None) -> tuple[Site, ...]:
        """The sites of one name at some layers, or at all that have it; negative layers count from the last.

        Raises:
            MissingSiteError: The architecture, or one of the layers, has no such site; the message says why.
            SelectionError: There is no such layer.
        """
        if name not in SITES or not SITES[name].layered:
            return (Site(name),)
        count, having = len(self.blocks), [layer for layer, has in enumerate(self.points) if name in has]
        if not having:
            self._refuse(name)
        for layer in layers or ():
            if not -count <= layer < count:
                raise SelectionError(f"`layer` must lie in {-count} to {count - 1}. Got {layer}.")
            if layer % count not in having:
                self._refuse_layer(name, layer % count, having)
        return tuple(Site(name, layer % count) for layer in (having if layers is None else layers))

    def place(self, site: Site) -> Place:
        """Where a site is.

        Raises:
            MissingSiteError: The architecture has no such site; the message says why.
            SelectionError: There is no such layer.
            UnknownNameError: A raw path leads nowhere; the message has the nearest names.
        """
        if site.is_raw:
            return self._raw(site)
        if site.name == "embed" and (point := self.family.embed):
            return Place(site, attribute(self.model, point.path), point, self.model)
        if site.name == "embed":
            return replace(self.place(Site("resid_pre", 0)), site=site)
        if site.name == "final_norm":
            norm = attribute(self.model, self.final_norm)
            last = self.times - 1 if self._norm_ends_each_time else None
            return Place(site, norm, Point(self.final_norm, "output", call=last), self.model)
        (site,) = self.select(site.name, None if site.layer is None else (site.layer,))
        layer = site.layer or 0
        block, point = self.blocks[layer], self.points[layer][site.name]
        if point.side == "next":
            return replace(self._next(layer), site=site)
        if self.times > 1:
            walk = layer // (len(self.blocks) // self.times)
            point = replace(point, call=walk * point.calls + (point.call or 0))
        return Place(site, attribute(block, point.path), point, block)

    def _next(self, layer: int) -> Place:
        """Where the stream that leaves a layer is read, for blocks that return none."""
        if layer + 1 < len(self.blocks):
            return self.place(Site("resid_pre", layer + 1))
        path = self.final_norm
        return Place(Site("final_norm"), attribute(self.model, path), Point(path, "input", boxed=True), self.model)

    def between(self, layer: int, stream: mx.array) -> mx.array:
        """The stream that enters a block, from the one that leaves the block before."""
        starts = layer % (len(self.blocks) // self.times) == 0
        return attribute(self.model, self.final_norm)(stream) if starts and self._norm_ends_each_time else stream

    @property
    def _norm_ends_each_time(self) -> bool:
        return self.family.loop is not None and self.times > 1 and self.family.loop.normed(self.model)

    def with_module(self, path: str | None) -> list[int]:
        """The layers whose block has a module at a path."""
        return [] if path is None else [i for i, block in enumerate(self.blocks) if Point(path, "input").serves(block)]

    def inner(self, site: Site, path: str | None, side: Side) -> Place | None:
        """What a module in the block of a site reads or returns; None if the block has none there."""
        if path is None or site.layer not in self.with_module(path):
            return None
        block = self.blocks[site.layer]
        return Place(site, attribute(block, path), Point(path, side), block)

    def attentions(self) -> list[Place]:
        """Each attention that calls mlx_lm's `scaled_dot_product_attention`, as a place inside it."""
        found: dict[int, Place] = {}
        for layer, points in enumerate(self.points):
            for name, point in points.items():
                if point.recipe == "sdpa":
                    place = self.place(Site(name, layer))
                    found.setdefault(id(place.module), place)
        return list(found.values())

    def _raw(self, site: Site) -> Place:
        path, side, call = site.raw
        modules = dict(self.model.named_modules())
        if path not in modules:
            raise UnknownNameError(f"`site` must be a module's path. Got {path!r}. {did_you_mean(path, modules)}")
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
        has = [known for known in SITES if any(known in points for points in self.points)]
        raise MissingSiteError(f"{self.family.name} has no {name!r}: {self.why_not(name)}. It has: {listed(has)}.")

    def _refuse_layer(self, name: str, layer: int, having: list[int]) -> NoReturn:
        raise MissingSiteError(
            f"`layer` must be one that has {name!r}. Got {layer}, whose block has: {listed(self.points[layer])}. "
            f"Layers with it: {listed(having)}."
        )


def layout_of(model: nn.Module, family: Family | None = None) -> Layout:
    """The layout of a model, by its own family's table or by a given one.

    Raises:
        ArchitectureError: There is no table for the model, or the table names modules that are not there.
    """
    family = family or family_of(model)
    times = family.loop.times(model) if family.loop else 1
    blocks = attribute(model, family.blocks)
    if not isinstance(blocks, list | tuple):
        raise ArchitectureError(
            f"`family` must be a table of this architecture. Got one whose blocks are {family.blocks!r}, which is no "
            f"list of modules in {type(model).__module__}. Leave it out for the registered one."
        )
    walk = [block for block in blocks for _ in range(family.parts)]
    layout = Layout(model, family, times * walk, times)
    _refuse_nowhere(layout)
    return layout


def _refuse_nowhere(layout: Layout) -> None:
    """Refuse a table that says of every block what is true of none: it is another architecture's.

    What some configurations of an architecture lack is no sign of that: a site that has several points or depends on
    a block's kind, and one whose alternative is there (`_ALTERNATIVES`).
    """
    there = {name for points in layout.points for name in points}
    for name, point in layout.family.block.items():
        if name in there or isinstance(point, tuple) or point.of or point.given or name in layout.family.absent:
            continue
        if not _replaced(name, layout.family, there):
            raise ArchitectureError(
                f"`family` must be a table of this architecture. Got one that looks for {point.path!r}, which no block "
                f"of {type(layout.model).__module__} has. Leave it out for the registered one."
            )


_ROUTING = ("router_logits", "expert_weights")


_ALTERNATIVES: Mapping[str, tuple[str, ...]] = {
    "mlp_post": _ROUTING,
    **dict.fromkeys(_ROUTING, ("mlp_post",)),
    **dict.fromkeys(("q", "k", "v", "rot_q", "rot_k", "attn_scores", "pattern", "z", "attn_out"), ("mixer_out",)),
}
"""What stands in a block in place of a site: neurons of a dense MLP or experts; attention or another mixer."""


def _replaced(name: str, family: Family, there: set[str]) -> bool:
    """Whether a table knows blocks without a site, and the model has nothing but those.

    Where `mixer_out` is at the point of `attn_out`, every mixer is attention.
    """
    others = {other for other in _ALTERNATIVES.get(name, ()) if other in family.block}
    if others == {"mixer_out"}:
        return family.points("mixer_out") != family.points("attn_out") and "attn_out" not in there and others <= there
    return bool(others) and others <= there


_NOWHERE: Mapping[str, str] = {
    "mlp_post": "none of its blocks has a dense MLP",
    **dict.fromkeys(_ROUTING, "none of its blocks has experts"),
}
"""Why no block of a model has a site that others of its architecture have, where that has a name."""


def can_be_split(layout: Layout) -> bool:
    """Whether a prompt may be split over a prompt cache, so that not every pass need begin at its first position."""
    return not layout.family.uncut and layout.family.final_norm is not None
