"""Views of a donor's activations: from other layers, in other coordinates. Each is a source as a cache is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from typing_extensions import override

from mlx_patch.cross._layer_map import LayerMap
from mlx_patch.cross._linear_map import LinearMap
from mlx_patch.errors import MissingSiteError
from mlx_patch.interventions import ActivationSource
from mlx_patch.sites import Site


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
        site = key if isinstance(key, Site) else Site(*key[:2]) if isinstance(key, tuple) else Site.parse(key)
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

    @override
    def _seen(self, site: Site, array: mx.array) -> mx.array:
        if isinstance(self.maps, LinearMap):
            return self.maps(array)
        if site.layer is None or site.layer not in self.maps:
            raise MissingSiteError(f"`linear_map` must have layer {site.layer}. Got maps of {sorted(self.maps)}.")
        return self.maps[site.layer](array)

    @override
    def __repr__(self) -> str:
        return f"{self.source!r} mapped linearly"
