"""Views of a donor's activations: from other layers, in other coordinates. Each is a source, like a cache."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from typing_extensions import override

from mlx_patch.cross._layer_map import LayerMap
from mlx_patch.cross._linear_map import LinearMap
from mlx_patch.errors import MissingSiteError
from mlx_patch.interventions.sources import SourceView
from mlx_patch.sites import Site, site_of


@dataclass(frozen=True, eq=False, repr=False)
class _View(SourceView):
    """A source that reads from another source. Subclasses change the sites or the arrays."""

    def _source_site(self, site: Site) -> Site:
        """The source's site for one of the target's."""
        return site

    def __contains__(self, key: object, /) -> bool:
        return isinstance(key, Site) and self._source_site(key) in self.source

    def __getitem__(self, key: Any, /) -> mx.array:
        site = site_of(key, None)
        return self._converted(site, self.source[self._source_site(site)])

    def _converted(self, site: Site, array: mx.array) -> mx.array:
        """The source's array in the target's coordinates."""
        return array


@dataclass(frozen=True, eq=False, repr=False)
class FromLayers(_View):
    """A source whose layers are those of another model."""

    layers: LayerMap

    @override
    def _source_site(self, site: Site) -> Site:
        if site.layer is None:
            return site
        return Site(site.name, self.layers.donor_of(site.layer))

    @override
    def __contains__(self, key: object, /) -> bool:
        if not isinstance(key, Site):
            return False
        is_mapped = key.layer is None or key.layer in self.layers.targets
        return is_mapped and super().__contains__(key)

    @override
    def __repr__(self) -> str:
        return f"{self.source!r} of {len(self.layers.pairs)} mapped layers"


@dataclass(frozen=True, eq=False, repr=False)
class Mapped(_View):
    """A source in other coordinates."""

    maps: LinearMap | Mapping[int, LinearMap]
    _arrays: dict[Site, mx.array] = field(default_factory=dict, compare=False)  # every cell of a sweep reads them again

    @override
    def _converted(self, site: Site, array: mx.array) -> mx.array:
        if site not in self._arrays:
            self._arrays[site] = self._map(site.layer)(array)
        return self._arrays[site]

    def _map(self, layer: int | None) -> LinearMap:
        if isinstance(self.maps, LinearMap):
            return self.maps
        if layer is None or layer not in self.maps:
            raise MissingSiteError(
                f"`linear_map` must hold a map for layer {layer}. Got maps for layers {sorted(self.maps)}."
            )
        return self.maps[layer]

    @override
    def __repr__(self) -> str:
        return f"{self.source!r} mapped linearly"
