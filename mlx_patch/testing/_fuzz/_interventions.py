"""Random interventions, with sources of the shapes that a site has."""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_patch.errors import PatchError
from mlx_patch.interventions import Ablate, Add, Apply, Clamp, Interpolate, Intervention, Project, Replace, Scale
from mlx_patch.model import HookedModel
from mlx_patch.sites import Site
from mlx_patch.testing._fuzz._functions import OF_KEYS, OF_POSITIONS

_BY_KEY = ("pattern", "attn_scores")


@dataclass(frozen=True)
class Draft:
    """What an intervention is drawn for.

    Attributes:
        model: The model.
        tokens: The prompts that it serves, all of one length. Shape `(batch, pos)`.
        site: One of the sites that it serves.
        rng: What draws.
        uneven: Whether it serves prompts of other lengths too.
    """

    model: HookedModel
    tokens: mx.array
    site: Site
    rng: np.random.Generator
    uneven: bool = False

    @property
    def alone(self) -> bool:
        """Whether a run has one row, so that its own batch has no other row to take anything from."""
        return self.tokens.shape[0] == 1

    def cache(self):
        """The activations of another prompt of the same length, of one row or of as many as the batch has."""
        rows = 1 if self.rng.random() < 0.5 else self.tokens.shape[0]
        other = mx.array(self.rng.integers(0, 90, (rows, self.tokens.shape[1])))
        return self.model.run_with_cache(other, sites=self._every_layer())[1]

    def _every_layer(self) -> str | Site:
        return self.site if self.site.is_raw else self.site.name

    def shape(self) -> tuple[int, ...]:
        """The shape of the activation."""
        return self.model.run_with_cache(self.tokens, sites=self.site)[1][self.site].shape

    def array(self) -> mx.array:
        """Numbers of the activation's shape, of one row of it, or of one that broadcasts to it."""
        shape = self.shape()
        which = self.rng.integers(2 if self.uneven else 0, 4)
        if which == 0:
            return self.normal(shape)
        if which == 1:
            return self.normal((1, *shape[1:]))
        return self.normal(shape[-1:]) if which == 2 else self.normal(())

    def normal(self, shape: tuple[int, ...]) -> mx.array:
        """Standard normal numbers."""
        return mx.array(self.rng.standard_normal(shape).astype(np.float32))

    def number(self, *choices: float) -> float:
        """One of some numbers."""
        return float(self.rng.choice(choices))


def draw_intervention(draft: Draft, chained: bool = True) -> Intervention:
    """A random intervention that means something at the site; seldom one that is refused there."""
    by_key = draft.site.name in _BY_KEY and draft.rng.random() < 0.97
    makers = _AT_SCORES if by_key else _ANYWHERE
    fitting = not draft.uneven or draft.rng.random() < 0.05
    names = [name for name in makers if fitting or name not in _OF_ONE_LENGTH]
    weights = np.array([_WEIGHTS.get(name, 1.0) for name in names])
    try:
        made = makers[str(draft.rng.choice(names, p=weights / weights.sum()))](draft)
    except PatchError:  # a raw path that cannot be captured; runs must refuse it in the same words
        made = Scale(0.5)
    if chained and draft.rng.random() < 0.15:
        return made | draw_intervention(draft, chained=False)
    return made


def _function(draft: Draft) -> Intervention:
    name = str(draft.rng.choice(list(OF_POSITIONS)))
    return Apply(OF_POSITIONS[name], name=name)


def _function_of_keys(draft: Draft) -> Intervention:
    fitting = [one for one in OF_KEYS if draft.site.name in one.at]
    return fitting[draft.rng.integers(len(fitting))].made(int(draft.rng.integers(draft.tokens.shape[1])))


def _mean(draft: Draft) -> Intervention:
    over = str(draft.rng.choice(["batch", "batch_pos"], p=[0.2, 0.8] if draft.alone else None))
    sourced = not draft.uneven and draft.rng.random() < (0.9 if draft.alone and over == "batch" else 0.3)
    return Ablate("mean", over=over, source=draft.cache() if sourced else None)


def _mean_of_rows(draft: Draft) -> Intervention:
    return Ablate("mean", over="batch", source=draft.cache() if draft.alone and not draft.uneven else None)


def _resample(draft: Draft) -> Intervention:
    source = draft.cache() if not draft.uneven and draft.rng.random() < (0.8 if draft.alone else 0.3) else None
    return Ablate("resample", source, seed=int(draft.rng.integers(5)))


def _clamp(draft: Draft) -> Intervention:
    low, high = sorted(draft.rng.normal(size=2))
    return Clamp(low, high) if draft.rng.random() < 0.5 else Clamp(high=high)


def _project(draft: Draft) -> Intervention:
    return Project(draft.normal(draft.shape()[-1:]), onto=bool(draft.rng.random() < 0.3))


_ANYWHERE: dict[str, Callable[[Draft], Intervention]] = {
    "replace": lambda draft: Replace(draft.cache()),
    "replace_array": lambda draft: Replace(draft.array()),
    "interpolate": lambda draft: Interpolate(draft.cache(), draft.number(0.0, 0.5, 1.0, 1.5)),
    "add": lambda draft: Add(draft.array(), scale=draft.number(1.0, -0.5)),
    "add_cache": lambda draft: Add(draft.cache(), scale=0.5),
    "scale": lambda draft: Scale(draft.number(0.5, -1.0, 2.0)),
    "clamp": _clamp,
    "project": _project,
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
_OF_ONE_LENGTH = ("replace", "interpolate", "add_cache", "resample")
_WEIGHTS = {"function": 4.0, "function_of_keys": 6.0, "mean": 2.0, "noise": 2.0, "resample": 1.5}
"""What reads several positions, keys or rows is drawn more often."""
