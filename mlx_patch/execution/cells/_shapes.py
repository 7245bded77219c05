"""`Shapes`: the shapes of a model's activations, from a run of one token."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from mlx_patch.architectures import Layout
from mlx_patch.errors import SelectionError, listed
from mlx_patch.model import run
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
        """Run one token to see the shapes at some sites that are not known yet."""
        new = tuple(site for site in dict.fromkeys(sites) if site not in self._known and not site.is_raw)
        if new:
            ran = run(self.layout, self.tokens[:1, :1], sites=new)
            self._known.update({site: (array.shape, array.dtype) for site, array in ran.activations.items()})

    def zeros(self, site: Site, batch: int, length: int) -> mx.array | None:
        """Zeros, never computed, of a site's shape in a run of so many rows and positions; None for a raw site."""
        if site.is_raw:
            return None
        shape, dtype = self._known[site]
        sizes = {"batch": batch, "pos": length, "query_pos": length, "key_pos": length + self._further(site, length)}
        whole = (sizes.get(axis, size) for axis, size in zip(site.axes, shape, strict=True))
        return mx.zeros(tuple(whole), dtype)

    def _further(self, site: Site, length: int) -> int:
        """How many keys stand behind those of the positions."""
        keys, layer = self.layout.family.heads.further, site.layer
        return 0 if keys is None or layer is None else keys(self.layout.blocks[layer], length).size

    def size(self, axis: str, names: Sequence[str], layers: Sequence[int] | None) -> int:
        """How many heads, or entries of the last axis, some sites have at some layers.

        Raises:
            SelectionError: The sites have no such axis, or differ.
        """
        for site in self._all(names, layers):
            _refuse_unknown_axes(axis, site)
        found = self.sizes(axis, names, layers)
        if len(found) > 1:
            raise SelectionError(
                f"`{axis}s` must be given where sites or layers differ in how many they have: {listed(sorted(found))}. "
                f"Got None. Give those that all have, {axis}s=range({min(found)}), or choose layers that agree."
            )
        return found.pop()

    def sizes(self, axis: str, names: Sequence[str], layers: Sequence[int] | None) -> set[int]:
        """How many heads, or entries of the last axis, there are at some sites and layers: each number once.

        Raises:
            SelectionError: The sites have no such axis.
        """
        sites = self._all(names, layers)
        for site in sites:
            _refuse_without(axis, site)
        self.learn(sites)
        return {self._shape(site)[site.axes.index("head") if axis == "head" else -1] for site in sites}

    def _shape(self, site: Site) -> tuple[int, ...]:
        if not site.is_raw:
            return self._known[site][0]
        return run(self.layout, self.tokens[:1, :1], sites=(site,)).activations[site].shape

    def _all(self, names: Sequence[str], layers: Sequence[int] | None) -> tuple[Site, ...]:
        return tuple(site for name in names for site in self._sites(name, layers))

    def _sites(self, name: str, layers: Sequence[int] | None) -> tuple[Site, ...]:
        if name in SITES:
            return self.layout.select(name, None if layers is None else tuple(layers))
        return (Site.parse(name),)


def _refuse_unknown_axes(axis: str, site: Site) -> None:
    if site.is_raw:
        raise SelectionError(
            f"`{axis}s` must be given at {site}, of which nobody knows the axes. Got None. Write {axis}s=[0, 1], say."
        )


def _refuse_without(axis: str, site: Site) -> None:
    if site.is_raw:
        lacks = axis == "head"
    else:
        lacks = ("head" not in site.axes) if axis == "head" else (site.axes[-1] == "key_pos")
    if lacks:
        has = listed(site.axes) or "batch, pos, ..."
        raise SelectionError(f"`over` must not have {axis!r} at {site}, whose axes are: {has}. Leave it out.")
