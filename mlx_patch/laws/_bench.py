"""`Bench`: a model with two prompts and their captured runs, which the laws share."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from mlx_patch.architectures import Heads, Stream
from mlx_patch.cache import ActivationCache
from mlx_patch.engine import classes_since, moment
from mlx_patch.interventions import Ablate, Edit, Replace
from mlx_patch.laws._report import ErrorScale, Finding, largest_deviation
from mlx_patch.provenance import parameters
from mlx_patch.sites import SITES, Site

REWRITTEN = ("attn_scores", "pattern")
"""Sites for which attention is written out: on a GPU the fused kernel rounds otherwise."""

EXTENDED = ("expert_weights",)
"""Sites whose edits run all experts: a BLAS or a GPU may sum the products of those that ran before in another order."""

ZERO = Ablate("zero")

_RAISED = (ArithmeticError, AttributeError, LookupError, RuntimeError, StopIteration, TypeError, ValueError)
"""Errors that a model's own code raises when it is called in an unsupported way."""


@dataclass(frozen=True, eq=False)
class Bench:
    """A model with two prompts, of one length and different in every token.

    Attributes:
        model: A `HookedModel`.
        tokens: The prompt of most runs. Shape `(batch, pos)`.
        other: The prompt of the donor's run. Shape `(batch, pos)`.
    """

    model: Any
    tokens: mx.array
    other: mx.array

    def __post_init__(self) -> None:
        _ = self.classes  # cached here, before the first run

    @cached_property
    def began(self) -> int:
        """The moment before any run."""
        return moment()

    @cached_property
    def classes(self) -> tuple[type, ...]:
        """The classes of the model's modules, before any run."""
        return classes_since(self.began, self.model.model.modules())

    def n_changed(self) -> int:
        """How many modules have another class than before the first run, but for blocks and threads around it."""
        classes = classes_since(self.began, self.model.model.modules())
        pairs = zip(self.classes, classes, strict=True)
        return len([before for before, after in pairs if before is not after])

    @cached_property
    def scale(self) -> ErrorScale:
        """Deviations in the model's precision."""
        return ErrorScale(self.model.model, self.model.layout.family.rounds)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The short names of the model's sites."""
        return tuple(dict.fromkeys(site.name for site in self.model.sites))

    @cached_property
    def plain(self) -> mx.array:
        """The logits of the raw model."""
        logits = self.raw()
        mx.eval(logits)
        return logits

    def raw(self) -> mx.array:
        """What the raw model returns; over a prompt cache if it is itself only with one."""
        return self._raw_of(self.tokens)

    def _raw_of(self, tokens: mx.array) -> mx.array:
        if self.model.layout.family.cached:
            return self.model.model(tokens, cache=self.prompt_cache())
        return self.model.model(tokens)

    @cached_property
    def moved_by_batch(self) -> float:
        """How far the raw model's logits are, in a batch, from those alone, as a fraction of the largest.

        A BLAS may sum in another order where a product has more rows, and a model may amplify what that rounds.
        """
        in_batch = self._raw_of(mx.concatenate([self.tokens, self.other], axis=0))
        return largest_deviation(in_batch[: self.tokens.shape[0]], self.plain)

    def prompt_cache(self) -> list[Any]:
        """An empty prompt cache, as mlx_lm makes it for the model."""
        return make_prompt_cache(self.model.model)

    @property
    def parts(self) -> tuple[mx.array, mx.array]:
        """The prompt in two."""
        first, second = mx.split(self.tokens, [self.middle], axis=1)
        return first, second

    @cached_property
    def in_parts(self) -> mx.array:
        """The logits of the raw model for the prompt split in two over a prompt cache."""
        logits = self.raw_in_parts()
        mx.eval(logits)
        return logits

    def raw_in_parts(self) -> mx.array:
        """What the raw model returns for the prompt split in two over a prompt cache."""
        prompt_cache = self.prompt_cache()
        first, second = (self.model.model(tokens, cache=prompt_cache) for tokens in self.parts)
        return mx.concatenate([first, second], axis=1)

    @cached_property
    def captured_run(self) -> tuple[mx.array, ActivationCache]:
        """Logits and all activations of `tokens`."""
        return self.model.run_with_cache(self.tokens, sites=self.model.sites)

    @cached_property
    def donor(self) -> tuple[mx.array, ActivationCache]:
        """Logits and all activations of `other`; where blocks read the tokens too, of `tokens` embedded as `other`."""
        raw_names = [name for name in self.shared if name not in SITES]
        sites = (*self.model.sites, *raw_names)
        if not self.model.layout.family.rereads:
            return self.model.run_with_cache(self.other, sites=sites)
        embedding = self.model.run_with_cache(self.other, sites="embed")[1]
        return self.model.run_with_cache(self.tokens, sites=sites, edits=[Replace(embedding).at("embed")])

    @property
    def end(self) -> Site:
        """The last site of a pass: the input of the unembedding, or where that is unknown the last block's output."""
        return self.model.sites[-1]

    @cached_property
    def caches(self) -> bool:
        """Whether the model takes a prompt cache, as mlx_lm's do; some that lack a kind of layer raise over theirs."""
        model = self.model.model
        can_make_cache = hasattr(model, "layers") or hasattr(model, "make_cache")
        if not can_make_cache or "cache" not in signature(type(model).__call__).parameters:
            return False
        try:
            self.raw_in_parts()  # lazily
        except _RAISED:
            return False
        return True

    @property
    def middle(self) -> int:
        """The position that edits at one position are at."""
        return self.tokens.shape[1] // 2

    @property
    def stream(self) -> Stream:
        """How the parts of a block make the stream."""
        return self.model.layout.family.stream

    @property
    def heads(self) -> Heads:
        """How the heads of its attention hang together."""
        return self.model.layout.family.heads

    @property
    def shared(self) -> tuple[str, ...]:
        """The sites that later blocks read besides the stream."""
        layout = self.model.layout
        block_paths = [layout.block_path(layer) for layer in range(self.model.n_layers)]
        modules = dict(self.model.model.named_modules())
        sites: dict[str, None] = {}
        for pattern in layout.family.shared:
            for path in block_paths:
                name = pattern.format(block=path)
                if name in SITES or Site(name).raw[0] in modules:
                    sites[name] = None
        return tuple(sites)

    @cached_property
    def more(self) -> list[dict[str, mx.array]]:
        """For each block, what the part behind its MLP adds, as keywords of `Stream.post`."""
        layout, path = self.model.layout, self.stream.more
        names = {layer: f"{layout.family.blocks}.{layer}.{path}:output" for layer in layout.with_module(path)}
        cache = self.model.run_with_cache(self.tokens, sites=names.values())[1]
        keywords: list[dict[str, mx.array]] = [{} for _ in range(self.model.n_layers)]
        for layer, name in names.items():
            keywords[layer]["more"] = cache[name]
        return keywords

    def layers(self, *names: str) -> tuple[int, ...]:
        """The layers that have all of these sites."""
        cache = self.captured_run[1]
        layers = [set(cache.layers(name)) for name in names]
        return tuple(sorted(set.intersection(*layers)))

    def has(self, *names: str) -> bool:
        """Whether the model has all of these sites."""
        return set(names) <= set(self.names)

    def exactly(self, name: str) -> float:
        """The tolerance where only the way of computing attention, or of running experts, may round otherwise."""
        if name in EXTENDED:
            return self.scale.reordered(self.longest_sum, len(self.layers(name)))
        if name in REWRITTEN:
            return self.scale.exact
        return 0.0

    @property
    def longest_sum(self) -> int:
        """How many products the longest sum of a matrix product has, by the shapes of the parameters."""
        lengths = [self.model.d_model]
        for array in parameters(self.model.model):
            if array.ndim > 1 and mx.issubdtype(array.dtype, mx.floating):
                lengths.append(array.shape[-1])
        return max(lengths)

    def run(self, *edits: Edit) -> mx.array:
        """The logits of `tokens` with edits."""
        return self.model.run(self.tokens, edits)

    def inside(self, sites: str | Site | tuple[str | Site, ...], *edits: Edit, rows: int = 1) -> ActivationCache:
        """The activations of `tokens` with edits; the logits are not used.

        The input of the unembedding is made 0, where it is known, so that MLX, which is lazy, computes only what the
        sites depend on.

        Args:
            sites: The sites of the activations.
            edits: The edits.
            rows: How often to repeat the prompt, for edits that go by row.
        """
        tokens = mx.tile(self.tokens, (rows, 1))
        if self.has("final_norm"):
            edits = (*edits, ZERO.at("final_norm"))
        return self.model.run_with_cache(tokens, sites=sites, edits=edits, logits_at=-1)[1]


Law = Callable[[Bench], Iterator[Finding]]
