"""`Shapes`: the shapes of a model's activations, from the graph of a run of one token that is never computed."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from mlx_patch.architectures import Layout
from mlx_patch.errors import SelectionError, listed
from mlx_patch.model import trace
from mlx_patch.sites import SITES, Site


@dataclass(frozen=True, eq=False)
class Shapes:
    """The shapes of a model's activations.

    Attributes:
        layout: The model's layout.
        tokens: A prompt. Shape `(batch, pos)`.
    """

    layout: Layout
    tokens: mx.array
    _known: dict[Site, tuple[tuple[int, ...], mx.Dtype]] = field(default_factory=dict)

    def learn(self, sites: Sequence[Site]) -> None:
        """Trace one token to see the shapes at the sites that are not known yet."""
        new_sites = tuple(site for site in dict.fromkeys(sites) if not site.is_raw and site not in self._known)
        if not new_sites:
            return
        for site, activation in trace(self.layout, self.tokens[:1, :1], new_sites).items():
            self._known[site] = (activation.shape, activation.dtype)

    def zeros(self, site: Site, batch: int, length: int) -> mx.array | None:
        """Zeros, never computed, of a site's shape in a run of so many rows and positions; None for a raw site."""
        if site.is_raw:
            return None
        shape, dtype = self._known[site]
        n_keys = length + self._n_extra_keys(site, length)
        sizes = {"batch": batch, "pos": length, "query_pos": length, "key_pos": n_keys}
        full_shape = [sizes.get(axis, size) for axis, size in zip(site.axes, shape, strict=True)]
        return mx.zeros(full_shape, dtype)

    def _n_extra_keys(self, site: Site, length: int) -> int:
        """How many keys stand behind those of the positions."""
        extra_keys = self.layout.family.heads.further
        if extra_keys is None or site.layer is None:
            return 0
        block = self.layout.blocks[site.layer]
        return extra_keys(block, length).size

    def size(self, axis: str, names: Sequence[str], layers: Sequence[int] | None) -> int:
        """How many heads, or entries of the last axis, some sites have at some layers.

        Raises:
            SelectionError: The sites have no such axis, or differ.
        """
        for site in self._all(names, layers):
            _refuse_unknown_axes(axis, site)
        sizes = self.sizes(axis, names, layers)
        if len(sizes) > 1:
            raise SelectionError(
                f"`{axis}s` must be given if sites or layers have different numbers of {axis}s: "
                f"{listed(sorted(sizes))}. Got None. Give those that all have, {axis}s=range({min(sizes)}), or choose "
                "layers with the same number."
            )
        return sizes.pop()

    def sizes(self, axis: str, names: Sequence[str], layers: Sequence[int] | None) -> set[int]:
        """How many heads, or entries of the last axis, there are at some sites and layers: each number once.

        Raises:
            SelectionError: The sites have no such axis.
        """
        sites = self._all(names, layers)
        for site in sites:
            _refuse_without(axis, site)
        self.learn(sites)
        return {self._size_at(site, axis) for site in sites}

    def _size_at(self, site: Site, axis: str) -> int:
        shape = self._shape(site)
        if axis == "head":
            return shape[site.axes.index("head")]
        return shape[-1]

    def _shape(self, site: Site) -> tuple[int, ...]:
        if not site.is_raw:
            return self._known[site][0]
        return trace(self.layout, self.tokens[:1, :1], (site,))[site].shape

    def _all(self, names: Sequence[str], layers: Sequence[int] | None) -> tuple[Site, ...]:
        return tuple(site for name in names for site in self._sites(name, layers))

    def _sites(self, name: str, layers: Sequence[int] | None) -> tuple[Site, ...]:
        if name not in SITES:
            return (Site.parse(name),)
        if layers is None:
            return self.layout.select(name, None)
        return self.layout.select(name, tuple(layers))


def _refuse_unknown_axes(axis: str, site: Site) -> None:
    if site.is_raw:
        raise SelectionError(
            f"`{axis}s` must be given at {site}, whose axes are unknown. Got None. Write {axis}s=[0, 1], say."
        )


def _refuse_without(axis: str, site: Site) -> None:
    if not _has_axis(axis, site):
        axes = listed(site.axes) or "batch, pos, ..."
        raise SelectionError(f"`over` must not have {axis!r} at {site}, whose axes are: {axes}. Leave it out.")


def _has_axis(axis: str, site: Site) -> bool:
    """Whether a site has heads, or a last axis of neurons; a raw site is taken to have the second alone."""
    if site.is_raw:
        return axis != "head"
    if axis == "head":
        return "head" in site.axes
    return site.axes[-1] != "key_pos"
