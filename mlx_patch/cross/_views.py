"""Views of a donor's activations: from other layers, in other coordinates. Each is a source as a cache is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from typing_extensions import override

from mlx_patch.cross._layer_map import LayerMap
from mlx_patch.cross._linear_map import LinearMap
from mlx_patch.errors import MissingSiteError
from mlx_patch.interventions.sources import ActivationSource
from mlx_patch.sites import Site, site_of


@dataclass(frozen=True, eq=False, repr=False)
class _View:
    """A source that is another one, seen otherwise."""

    source: ActivationSource

    @property
    def positions(self) -> tuple[int, ...]:
        """The absolute positions that it holds, in order."""
        return self.source.positions

    @property
    def n_positions(self) -> int:
        """The positions of the prompt that it was captured from."""
        return self.source.n_positions

    @property
    def tokens(self) -> Any:
        """The tokens of the run, where they are known."""
        return getattr(self.source, "tokens", None)

    def _other(self, site: Site) -> Site:
        return site

    def __contains__(self, key: object, /) -> bool:
        return isinstance(key, Site) and self._other(key) in self.source

    def __getitem__(self, key: Any, /) -> mx.array:
        site = site_of(key, None)
        return self._seen(site, self.source[self._other(site)])

    def _seen(self, site: Site, array: mx.array) -> mx.array:
        return array


@dataclass(frozen=True, eq=False, repr=False)
class FromLayers(_View):
    """A source whose layers are those of another model."""

    layers: LayerMap

    @override
    def _other(self, site: Site) -> Site:
        return site if site.layer is None else Site(site.name, self.layers.donor_of(site.layer))

    @override
    def __contains__(self, key: object, /) -> bool:
        known = isinstance(key, Site) and (key.layer is None or key.layer in self.layers.targets)
        return known and super().__contains__(key)

    @override
    def __repr__(self) -> str:
        return f"{self.source!r} of {len(self.layers.pairs)} mapped layers"


@dataclass(frozen=True, eq=False, repr=False)
class Mapped(_View):
    """A source in other coordinates."""

    maps: LinearMap | Mapping[int, LinearMap]
    _made: dict[Site, mx.array] = field(default_factory=dict, compare=False)  # each cell of a sweep reads one again

    @override
    def _seen(self, site: Site, array: mx.array) -> mx.array:
        if site not in self._made:
            self._made[site] = self._map(site.layer)(array)
        return self._made[site]

    def _map(self, layer: int | None) -> LinearMap:
        if isinstance(self.maps, LinearMap):
            return self.maps
        if layer is None or layer not in self.maps:
            raise MissingSiteError(f"`linear_map` must have layer {layer}. Got maps of {sorted(self.maps)}.")
        return self.maps[layer]

    @override
    def __repr__(self) -> str:
        return f"{self.source!r} mapped linearly"
