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
    """What places are drawn from.

    Attributes:
        model: The model.
        lengths: The positions of each prompt.
        listed: Whether the prompts are a list.
        rng: What draws.
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
        name = str(self.rng.choice(favoured if roll < 0.35 and favoured else names))
        layers = [site.layer for site in self.model.sites if site.name == name]
        return Site(name, layers[self.rng.integers(len(layers))])

    def _raw(self) -> Site:
        paths = [path for path, module in self.model.model.named_modules() if path and _is_leaf(module)]
        return Site(f"{self.rng.choice(paths)}:{self.rng.choice(['input', 'output'])}")

    def layers(self, site: Site) -> Any:
        """The site's own layer, some, or None for all."""
        if site.layer is None:
            return None
        having = [n for other in self.model.sites if other.name == site.name and (n := other.layer) is not None]
        roll = self.rng.random()
        if roll < 0.75 or len(having) < 2:
            return site.layer
        return None if roll < 0.85 else sorted(int(n) for n in self.rng.choice(having, 2, replace=False))

    def positions(self) -> Any:
        """Positions that every prompt has, in any of the ways to say them; seldom one that is not there."""
        least, roll = min(self.lengths), self.rng.random()
        if roll < 0.3:
            return None
        if roll < 0.31:
            return least + 3
        if roll < 0.5:
            return _SELECTORS[self.rng.integers(len(_SELECTORS))]
        if roll < 0.65:
            return int(self.rng.integers(least))
        if roll < 0.75:
            return -1 - int(self.rng.integers(least))
        if roll < 0.85:
            begin = int(self.rng.integers(least))
            return slice(begin, None) if self.rng.random() < 0.5 else slice(None, -1)
        several = self.rng.choice(least, min(least, int(self.rng.integers(2, 4))), replace=False)
        return [int(p) for p in (np.sort(several) if self.rng.random() < 0.8 else several)]

    def where(self, site: Site, positions: Any = ...) -> dict[str, Any]:
        """What `.at` is given beside the site."""
        where: dict[str, Any] = {"layer": self.layers(site)}
        where["pos"] = self.positions() if positions is ... else positions
        if not site.is_raw and "head" in site.axes and self.rng.random() < 0.4:
            where["head"] = self._some(self._size(site, "head"))
        if not site.is_raw and site.axes[-1] != "key_pos" and self.rng.random() < 0.15:
            where["neuron"] = self._some(self._size(site, "neuron"))
        if not self.listed and len(self.lengths) > 1 and self.rng.random() < 0.12:
            where["batch"] = self._some(len(self.lengths))
        return {name: choice for name, choice in where.items() if choice is not None}

    def _size(self, site: Site, what: str) -> int:
        cache = self.model.run_with_cache([[1, 2]], sites=site)[1]
        return cache[site].shape[site.axes.index("head") if what == "head" else -1]

    def _some(self, size: int) -> int | list[int]:
        if self.rng.random() < 0.6:
            return int(self.rng.integers(-size, size))
        return [int(n) for n in np.sort(self.rng.choice(size, min(size, 2), replace=False))]


def draw_prompts(rng: np.random.Generator, lengths: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Prompts with marks at random places, in each row elsewhere."""
    return tuple(_prompt(rng, length) for length in lengths)


def _prompt(rng: np.random.Generator, length: int) -> tuple[int, ...]:
    tokens = rng.integers(0, 90, length)
    places = rng.permutation(length)
    for mark, place in zip((*MARKS, MARKS[2]), places, strict=False):
        if mark != MARKS[2] or place == places[2] or rng.random() < 0.5:
            tokens[place] = mark
    return tuple(int(token) for token in tokens)


def _is_leaf(module: nn.Module) -> bool:
    return not module.children() and "weight" in module
