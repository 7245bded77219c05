"""`Bench`: a model with two prompts and their captured runs, which the laws share."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mlx.core as mx

from mlx_patch.cache import ActivationCache
from mlx_patch.interventions import Ablate, Edit
from mlx_patch.laws._report import Finding, Scale
from mlx_patch.sites import Site

REWRITTEN = ("attn_scores", "pattern")
"""Sites for which attention is written out: on a GPU the fused kernel rounds otherwise."""

ZERO = Ablate("zero")


@dataclass(frozen=True, eq=False)
class Bench:
    """A model with two prompts, of one length and unlike in every token.

    Attributes:
        model: A `HookedModel`.
        tokens: The prompt of most runs. Shape `(batch, pos)`.
        other: The prompt of the donor's run. Shape `(batch, pos)`.
    """

    model: Any
    tokens: mx.array
    other: mx.array

    def __post_init__(self) -> None:
        _ = self.classes  # as they are before the first run

    @cached_property
    def classes(self) -> tuple[type, ...]:
        """The classes of the model's modules, before any run."""
        return tuple(type(module) for module in self.model.model.modules())

    def n_changed(self) -> int:
        """How many modules have another class than before the first run."""
        now = (type(module) for module in self.model.model.modules())
        return sum(a is not b for a, b in zip(self.classes, now, strict=True))

    @cached_property
    def scale(self) -> Scale:
        """Deviations in the model's precision."""
        return Scale(self.model.model)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The short names of the model's sites."""
        return tuple(dict.fromkeys(site.name for site in self.model.sites))

    @cached_property
    def plain(self) -> mx.array:
        """The logits of the raw model."""
        logits = self.model.model(self.tokens)
        mx.eval(logits)
        return logits

    @cached_property
    def own(self) -> tuple[mx.array, ActivationCache]:
        """Logits and all activations of `tokens`."""
        return self.model.run_with_cache(self.tokens, sites=self.model.sites)

    @cached_property
    def donor(self) -> tuple[mx.array, ActivationCache]:
        """Logits and all activations of `other`."""
        return self.model.run_with_cache(self.other, sites=self.model.sites)

    @property
    def middle(self) -> int:
        """The position that edits at one position are at."""
        return self.tokens.shape[1] // 2

    def has(self, *names: str) -> bool:
        """Whether the model has all of these sites."""
        return set(names) <= set(self.names)

    def exactly(self, name: str) -> float:
        """The tolerance where nothing but the way of computing attention may round otherwise."""
        return self.scale.exact if name in REWRITTEN else 0.0

    def run(self, *edits: Edit) -> mx.array:
        """The logits of `tokens` with edits."""
        return self.model.run(self.tokens, edits)

    def inside(self, sites: str | Site | tuple[Site, ...], *edits: Edit, rows: int = 1) -> ActivationCache:
        """The activations of `tokens` with edits, where nobody wants the logits.

        What the unembedding reads is made 0, so that whatever nothing else needs is never computed.

        Args:
            sites: Which activations.
            edits: The edits.
            rows: How often to repeat the prompt, for edits that go by row.
        """
        tokens = mx.tile(self.tokens, (rows, 1))
        more = (*edits, ZERO.at("final_norm"))
        return self.model.run_with_cache(tokens, sites=sites, edits=more, logits_at=-1)[1]


Law = Callable[[Bench], Iterator[Finding]]
