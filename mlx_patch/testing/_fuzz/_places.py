"""Random places: sites, layers, positions, heads, neurons and rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.nn as nn
import numpy as np

from mlx_patch.model import HookedModel
from mlx_patch.positions import pos
from mlx_patch.sites import Site

MARKS = (91, 92, 93)
"""Tokens that selectors look for: the first two are in every prompt once, the third once or more often."""

_SELECTORS = (
    pos.token(MARKS[0]),
    pos.token(MARKS[1]),
    pos.token(MARKS[0]) | pos.token(MARKS[1]),
    pos.token(MARKS[2], nth="all"),
    pos.token(MARKS[2], nth="all").first,
    pos.last,
)


@dataclass(frozen=True)
class Places:
    """Draws places in a model for some prompts.

    Attributes:
        model: The model.
        lengths: The positions of each prompt.
        listed: Whether the prompts are a list.
        rng: The generator of random numbers.
    """

    model: HookedModel
    lengths: tuple[int, ...]
    listed: bool
    rng: np.random.Generator

    @property
    def uneven(self) -> bool:
        """Whether the prompts differ in length."""
        return len(set(self.lengths)) > 1

    def site(self) -> Site:
        """A site of the model: any name as often as any other, attention's and raw paths more often."""
        names = list(dict.fromkeys(site.name for site in self.model.sites))
        roll = self.rng.random()
        if roll < 0.08:
            return self._raw()
        favoured = [name for name in ("pattern", "attn_scores", "embed", "final_norm") if name in names]
        if roll < 0.35 and favoured:
            names = favoured
        name = str(self.rng.choice(names))
        layers = [site.layer for site in self.model.sites if site.name == name]
        return Site(name, layers[self.rng.integers(len(layers))])

    def _raw(self) -> Site:
        modules = self.model.model.named_modules()
        paths = [path for path, module in modules if path and _is_leaf(module)]
        path = self.rng.choice(paths)
        side = self.rng.choice(["input", "output"])
        return Site(f"{path}:{side}")

    def layers_of(self, site: Site) -> list[int]:
        """The layers that have a site; none of a raw path, or of a site without layers."""
        sites = [candidate for candidate in self.model.sites if candidate.name == site.name]
        return [candidate.layer for candidate in sites if candidate.layer is not None]

    def layers(self, site: Site) -> Any:
        """The layer of the site, two layers, or None for all."""
        if site.layer is None:
            return None
        layers = self.layers_of(site)
        roll = self.rng.random()
        if roll < 0.75 or len(layers) < 2:
            return site.layer
        if roll < 0.85:
            return None
        return sorted(int(layer) for layer in self.rng.choice(layers, 2, replace=False))

    def positions(self) -> Any:
        """Positions that every prompt has, in any of their forms; seldom one that is out of range."""
        shortest = min(self.lengths)
        roll = self.rng.random()
        if roll < 0.3:
            return None
        if roll < 0.31:
            return shortest + 3
        if roll < 0.5:
            return _SELECTORS[self.rng.integers(len(_SELECTORS))]
        if roll < 0.65:
            return int(self.rng.integers(shortest))
        if roll < 0.75:
            return -1 - int(self.rng.integers(shortest))
        if roll < 0.85:
            start = int(self.rng.integers(shortest))
            if self.rng.random() < 0.5:
                return slice(start, None)
            return slice(None, -1)
        size = min(shortest, int(self.rng.integers(2, 4)))
        positions = self.rng.choice(shortest, size, replace=False)
        if self.rng.random() < 0.8:
            positions = np.sort(positions)
        return [int(position) for position in positions]

    def where(self, site: Site) -> dict[str, Any]:
        """The keywords of `.at`, besides the site."""
        where: dict[str, Any] = {"layer": self.layers(site), "pos": self.positions()}
        if not site.is_raw and "head" in site.axes and self.rng.random() < 0.4:
            axis = site.axes.index("head")
            where["head"] = self._indices(self._shape(site)[axis])
        if not site.is_raw and site.axes[-1] != "key_pos" and self.rng.random() < 0.15:
            where["neuron"] = self._indices(self._shape(site)[-1])
        if not self.listed and len(self.lengths) > 1 and self.rng.random() < 0.12:
            where["batch"] = self._indices(len(self.lengths))
        return {name: choice for name, choice in where.items() if choice is not None}

    def _shape(self, site: Site) -> tuple[int, ...]:
        cache = self.model.run_with_cache([[1, 2]], sites=site)[1]
        return cache[site].shape

    def _indices(self, size: int) -> int | list[int]:
        if self.rng.random() < 0.6:
            return int(self.rng.integers(-size, size))
        indices = self.rng.choice(size, min(size, 2), replace=False)
        return [int(index) for index in np.sort(indices)]


def draw_prompts(rng: np.random.Generator, lengths: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Prompts with marks at random places, which differ from row to row."""
    return tuple(_draw_prompt(rng, length) for length in lengths)


def _draw_prompt(rng: np.random.Generator, length: int) -> tuple[int, ...]:
    tokens = rng.integers(0, 90, length)
    places = rng.permutation(length)
    for mark, place in zip((*MARKS, MARKS[2]), places, strict=False):
        if mark != MARKS[2] or place == places[2] or rng.random() < 0.5:
            tokens[place] = mark
    return tuple(int(token) for token in tokens)


def _is_leaf(module: nn.Module) -> bool:
    return not module.children() and "weight" in module
