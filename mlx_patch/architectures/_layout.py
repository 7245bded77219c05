"""`Layout`: a family's table bound to one model. It says which module serves a site."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NoReturn

import mlx.nn as nn

from mlx_patch.architectures._family import Family, Point
from mlx_patch.architectures._registry import family_of
from mlx_patch.architectures._views import attribute
from mlx_patch.errors import MissingSiteError, SelectionError, UnknownNameError, did_you_mean, listed
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
        blocks: The blocks that its forward pass walks, in order.
    """

    model: nn.Module
    family: Family
    blocks: Sequence[nn.Module]

    @property
    def d_model(self) -> int:
        """The width of the stream."""
        return attribute(self.model, self.family.width)

    @property
    def d_vocab(self) -> int:
        """The number of rows of the unembedding."""
        return attribute(self.model, self.family.vocabulary)

    @cached_property
    def points(self) -> tuple[Mapping[str, Point], ...]:
        """For each block, the point of every site that it has."""
        return tuple({name: p for name in self.family.block if (p := self._point(name, b))} for b in self.blocks)

    def _point(self, name: str, block: nn.Module) -> Point | None:
        return next((point for point in self.family.points(name) if point.serves(block)), None)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every named site of the model, in the order in which a forward pass meets them."""
        layered = [name for name, kind in SITES.items() if kind.layered]
        inner = [Site(name, layer) for layer, has in enumerate(self.points) for name in layered if name in has]
        return (Site("embed"), *inner, Site("final_norm"))

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
        if site.name == "embed":
            return replace(self.place(Site("resid_pre", 0)), site=site)
        if site.name == "final_norm":
            norm = attribute(self.model, self.family.final_norm)
            return Place(site, norm, Point(self.family.final_norm, "output"), self.model)
        (site,) = self.select(site.name, None if site.layer is None else (site.layer,))
        layer = site.layer or 0
        block, point = self.blocks[layer], self.points[layer][site.name]
        return Place(site, attribute(block, point.path), point, block)

    def _raw(self, site: Site) -> Place:
        path, side, call = site.raw
        modules = dict(self.model.named_modules())
        if path not in modules:
            raise UnknownNameError(f"`site` must be a module's path. Got {path!r}. {did_you_mean(path, modules)}")
        point = Point(path, "input" if side == "input" else "output", call=call)
        return Place(site, modules[path], point, self.model)

    def _refuse(self, name: str) -> NoReturn:
        reason = self.family.absent.get(name, "its table does not say where that is")
        has = [known for known in SITES if any(known in points for points in self.points)]
        raise MissingSiteError(f"{self.family.name} has no {name!r}: {reason}. It has: {listed(has)}.")

    def _refuse_layer(self, name: str, layer: int, having: list[int]) -> NoReturn:
        raise MissingSiteError(
            f"`layer` must be one that has {name!r}. Got {layer}, whose block has: {listed(self.points[layer])}. "
            f"Layers with it: {listed(having)}."
        )


def layout_of(model: nn.Module, family: Family | None = None) -> Layout:
    """The layout of a model, by its own family's table or by a given one.

    Raises:
        ArchitectureError: There is no table for the model.
    """
    family = family or family_of(model)
    return Layout(model, family, attribute(model, family.blocks))
