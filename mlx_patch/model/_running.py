"""One forward pass with edits and captures: set up, run, evaluate once, check that every hook acted."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from mlx_patch.architectures import Layout
from mlx_patch.cache import ActivationCache
from mlx_patch.engine import Frame, Hook, Restored, cached_arrays, note_offset, offset_of, refuse_misfit, refuse_random
from mlx_patch.interventions import Edit, PositionChoice, Span, as_positions
from mlx_patch.interventions.sources import norms_noted
from mlx_patch.model._hooks import capture_hooks, edit_hooks, refuse_unused, slice_hook, whole_prompt
from mlx_patch.model._room import refuse_no_room, refuse_unlearned
from mlx_patch.model._selector_resolver import SelectorResolver
from mlx_patch.sites import Site
from mlx_patch.tokens import tokens_of


@dataclass(frozen=True)
class RunResult:
    """The result of a run.

    Attributes:
        logits: Shape `(batch, pos, d_vocab)`.
        activations: The captured activations, by site.
        tokens: The tokens of the run. Shape `(batch, pos)`.
        positions: The absolute positions that were captured.
        n_positions: How many positions the prompt has, including those in the prompt cache.
    """

    logits: mx.array
    activations: dict[Site, mx.array]
    tokens: mx.array
    positions: tuple[int, ...]
    n_positions: int


def run(
    layout: Layout,
    tokens: Any,
    edits: Iterable[Edit] = (),
    *,
    sites: tuple[Site, ...] = (),
    pos: PositionChoice = None,
    logits_at: PositionChoice = None,
    prompt_cache: Sequence[Any] | None = None,
    tokenizer: Any = None,
    unembed: bool = True,
    keep_logits: bool = False,
) -> RunResult:
    """Run the model once. See `HookedModel.run_with_cache` for arguments and errors.

    Without `unembed` there are no logits, and only what `sites` depend on is computed: the layers above the last site
    cost nothing. With `keep_logits` there are logits all the same, unevaluated.
    """
    ids = tokens_of(tokens, tokenizer, layout.d_vocab)
    if prompt_cache is None and layout.family.cached:
        prompt_cache = make_prompt_cache(layout.model)
    elif prompt_cache is not None:
        refuse_misfit(layout.model, prompt_cache, ids.shape[0])
    offset = offset_of(prompt_cache)
    end = offset + ids.shape[1]
    refuse_unlearned(layout, end)
    resolver = SelectorResolver(ids, tokenizer, offset)
    edits, pos = resolver.edits(edits), resolver.choice("pos", pos)
    logits_at = resolver.choice("logits_at", logits_at)
    positions = _absolute_positions(pos, offset, end)
    read = _absolute_positions(logits_at, offset, end)  # refused here, before anything is computed
    refuse_no_room(layout, ids, offset, len(read) * unembed, sites, len(positions))
    hooks = edit_hooks(layout, edits, whole_prompt)
    captures: dict[Site, mx.array] = {}
    hooks += capture_hooks(layout, sites, pos, captures)
    if logits_at is not None:
        hooks.append(slice_hook(layout, logits_at))
    with Restored(prompt_cache), norms_noted() as norms:
        logits = _forward(layout, ids, hooks, prompt_cache)
        refuse_unused(hooks)
        note_offset(prompt_cache, end)
        if unembed:
            mx.eval(logits, *cached_arrays(prompt_cache), *captures.values(), *norms.arrays)
        else:
            if not keep_logits:
                logits = mx.zeros((ids.shape[0], 0, 0))
            mx.eval(*captures.values(), *norms.arrays)
    norms.warn()
    return RunResult(logits, {site: captures[site] for site in sites}, ids, positions, end)


def trace(layout: Layout, tokens: mx.array, sites: tuple[Site, ...]) -> dict[Site, mx.array]:
    """The activations of a run, unevaluated: their shapes and types, for the price of writing the graph.

    Args:
        layout: The model's layout.
        tokens: A prompt. Shape `(batch, pos)`.
        sites: What to look at.
    """
    prompt_cache = make_prompt_cache(layout.model) if layout.family.cached else None
    captures: dict[Site, mx.array] = {}
    hooks = capture_hooks(layout, sites, None, captures)
    _forward(layout, tokens, hooks, prompt_cache)
    refuse_unused(hooks)
    return captures


def cache_of(result: RunResult, identity: Mapping[str, str], n_layers: int) -> ActivationCache:
    """The captures of a run, as a cache.

    Args:
        result: The run's result.
        identity: The model's identity.
        n_layers: How many blocks it has.
    """
    return ActivationCache(result.activations, result.tokens, result.positions, result.n_positions, identity, n_layers)


def _absolute_positions(pos: PositionChoice, offset: int, end: int) -> tuple[int, ...]:
    """The positions that a choice picks from those of a run.

    Raises:
        SelectionError: It picks a position that the run does not compute.
    """
    chosen = as_positions(pos)
    if chosen is None:
        return tuple(range(offset, end))
    indices = Span(offset, end - offset, end).local(chosen)
    return tuple(offset + index for index in indices)


def _forward(layout: Layout, tokens: mx.array, hooks: list[Hook], prompt_cache: Sequence[Any] | None) -> mx.array:
    keywords: dict[str, Any] = {}
    if prompt_cache is not None:
        keywords["cache"] = prompt_cache
    if not hooks:
        refuse_random(layout.model)
        return layout.model(tokens, **keywords)
    return Frame(layout.model, hooks).around(layout.model, tokens, **keywords)
