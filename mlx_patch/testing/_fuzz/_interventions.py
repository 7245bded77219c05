"""Random interventions, with sources of the shapes of a site.

As in `_draw`, the order of draws is fixed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_patch.errors import PatchError
from mlx_patch.interventions import (
    Ablate,
    Add,
    Apply,
    Clamp,
    Interpolate,
    Intervention,
    Project,
    Replace,
    Scale,
    Swap,
    orthonormal,
)
from mlx_patch.model import HookedModel
from mlx_patch.sites import Site
from mlx_patch.testing._fuzz._functions import OF_KEYS, OF_POSITIONS

_BY_KEY = ("pattern", "attn_scores")


@dataclass(frozen=True)
class Draft:
    """The model, prompts and site for which an intervention is drawn.

    Attributes:
        model: The model.
        tokens: The prompts that it serves, all of one length. Shape `(batch, pos)`.
        site: One of the sites that it serves.
        rng: The generator of random numbers.
        uneven: Whether it serves prompts of other lengths too.
    """

    model: HookedModel
    tokens: mx.array
    site: Site
    rng: np.random.Generator
    uneven: bool = False

    @property
    def alone(self) -> bool:
        """Whether a run has one row, so that the batch has no other row to resample from."""
        return self.tokens.shape[0] == 1

    def cache(self):
        """The activations of another prompt of the same length, of one row or of as many as the batch has."""
        n_rows, length = self.tokens.shape
        if self.rng.random() < 0.5:
            n_rows = 1
        tokens = mx.array(self.rng.integers(0, 90, (n_rows, length)))
        return self.model.run_with_cache(tokens, sites=self._every_layer())[1]

    def _every_layer(self) -> str | Site:
        if self.site.is_raw:
            return self.site
        return self.site.name

    def shape(self) -> tuple[int, ...]:
        """The shape of the activation."""
        cache = self.model.run_with_cache(self.tokens, sites=self.site)[1]
        return cache[self.site].shape

    def array(self) -> mx.array:
        """Numbers of the activation's shape, of one row of it, or of one that broadcasts to it."""
        shape = self.shape()
        shapes = [shape, (1, *shape[1:]), shape[-1:], ()]
        first = 0
        if self.uneven:
            first = 2  # the other shapes hold a position axis
        return self.normal(shapes[self.rng.integers(first, 4)])

    def normal(self, shape: tuple[int, ...]) -> mx.array:
        """Standard normal numbers."""
        return mx.array(self.rng.standard_normal(shape).astype(np.float32))

    def number(self, *choices: float) -> float:
        """One of some numbers."""
        return float(self.rng.choice(choices))


def draw_intervention(draft: Draft, chained: bool = True) -> Intervention:
    """A random intervention that makes sense at the site; seldom one that is refused there."""
    makers = _ANYWHERE
    if draft.site.name in _BY_KEY and draft.rng.random() < 0.97:
        makers = _AT_SCORES
    names = list(makers)
    if draft.uneven and draft.rng.random() >= 0.05:
        names = [name for name in makers if name not in _OF_ONE_LENGTH]
    weights = np.array([_WEIGHTS.get(name, 1.0) for name in names])
    name = str(draft.rng.choice(names, p=weights / weights.sum()))
    try:
        intervention = makers[name](draft)
    except PatchError:  # a raw path that cannot be captured; runs must refuse it in the same words
        intervention = Scale(0.5)
    if chained and draft.rng.random() < 0.15:
        return intervention | draw_intervention(draft, chained=False)
    return intervention


def _function(draft: Draft) -> Intervention:
    name = str(draft.rng.choice(list(OF_POSITIONS)))
    return Apply(OF_POSITIONS[name], name=name)


def _function_of_keys(draft: Draft) -> Intervention:
    functions = [function for function in OF_KEYS if draft.site.name in function.at]
    function = functions[draft.rng.integers(len(functions))]
    key = int(draft.rng.integers(draft.tokens.shape[1]))
    return function.intervention(key)


def _mean(draft: Draft) -> Intervention:
    probabilities, source_probability = None, 0.3
    if draft.alone:
        probabilities = [0.2, 0.8]
    over = str(draft.rng.choice(["batch", "batch_pos"], p=probabilities))
    if draft.alone and over == "batch":
        source_probability = 0.9
    if not draft.uneven and draft.rng.random() < source_probability:
        return Ablate("mean", over=over, source=draft.cache())
    return Ablate("mean", over=over)


def _mean_of_rows(draft: Draft) -> Intervention:
    if draft.alone and not draft.uneven:
        return Ablate("mean", over="batch", source=draft.cache())
    return Ablate("mean", over="batch")


def _resample(draft: Draft) -> Intervention:
    source, source_probability = None, 0.3
    if draft.alone:
        source_probability = 0.8
    if not draft.uneven and draft.rng.random() < source_probability:
        source = draft.cache()
    return Ablate("resample", source, seed=int(draft.rng.integers(5)))


def _clamp(draft: Draft) -> Intervention:
    low, high = sorted(draft.rng.normal(size=2))
    if draft.rng.random() < 0.5:
        return Clamp(low, high)
    return Clamp(high=high)


def _replace_subspace(draft: Draft) -> Intervention:
    directions = draft.normal((2, draft.shape()[-1]))
    return Replace(draft.cache(), basis=orthonormal(directions))


def _project(draft: Draft) -> Intervention:
    direction = draft.normal(draft.shape()[-1:])
    return Project(direction, onto=bool(draft.rng.random() < 0.3))


def _swap(draft: Draft) -> Intervention:
    first, second = draft.normal(draft.shape()[-1:]), draft.normal(draft.shape()[-1:])
    if first.size == 1:
        second = -first
    return Swap(first, second)


_ANYWHERE: dict[str, Callable[[Draft], Intervention]] = {
    "replace": lambda draft: Replace(draft.cache()),
    "replace_subspace": _replace_subspace,
    "replace_array": lambda draft: Replace(draft.array()),
    "interpolate": lambda draft: Interpolate(draft.cache(), draft.number(0.0, 0.5, 1.0, 1.5)),
    "add": lambda draft: Add(draft.array(), scale=draft.number(1.0, -0.5)),
    "add_cache": lambda draft: Add(draft.cache(), scale=0.5),
    "scale": lambda draft: Scale(draft.number(0.5, -1.0, 2.0)),
    "clamp": _clamp,
    "project": _project,
    "swap": _swap,
    "function": _function,
    "zero": lambda draft: Ablate("zero"),
    "mean": _mean,
    "resample": _resample,
    "noise": lambda draft: Ablate("noise", scale=draft.number(0.5, 1.0, 3.0), seed=int(draft.rng.integers(5))),
}
_AT_SCORES: dict[str, Callable[[Draft], Intervention]] = {
    "replace": lambda draft: Replace(draft.cache()),
    "interpolate": lambda draft: Interpolate(draft.cache(), draft.number(0.3, 0.5, 1.0)),
    "scale": lambda draft: Scale(draft.number(0.5, 2.0)),
    "function_of_keys": _function_of_keys,
    "mean": _mean_of_rows,
    "resample": _resample,
}
_OF_ONE_LENGTH = ("replace", "replace_subspace", "interpolate", "add_cache", "resample")
_WEIGHTS = {"function": 4.0, "function_of_keys": 6.0, "mean": 2.0, "noise": 2.0, "resample": 1.5}
"""Interventions that read several positions, keys or rows are drawn more often."""
