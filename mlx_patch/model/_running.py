"""One forward pass with edits and captures: set up, run, evaluate once, check that everything came to pass."""

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
    """What a run gave.

    Attributes:
        logits: Shape `(batch, pos, d_vocab)`.
        activations: What was kept, by site.
        tokens: The tokens of the run. Shape `(batch, pos)`.
        positions: The absolute positions that were kept.
        n_positions: How many positions the prompt has, with what the prompt cache held.
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
) -> RunResult:
    """Run the model once. See `HookedModel.run_with_cache` for arguments and errors.

    Without `unembed` there are no logits, and nothing is computed that none of `sites` comes from: the layers above the
    last site cost nothing.
    """
    ids = tokens_of(tokens, tokenizer, layout.d_vocab)
    if prompt_cache is None and layout.family.cached:
        prompt_cache = make_prompt_cache(layout.model)
    elif prompt_cache is not None:
        refuse_misfit(layout.model, prompt_cache, ids.shape[0])
    offset, end = offset_of(prompt_cache), offset_of(prompt_cache) + ids.shape[1]
    refuse_unlearned(layout, end)
    refuse_no_room(layout, ids, offset)
    placing = SelectorResolver(ids, tokenizer, offset)
    edits, pos = placing.edits(edits), placing.choice("pos", pos)
    logits_at = placing.choice("logits_at", logits_at)
    positions = tuple(range(offset, end)[p] for p in _local(pos, offset, end))
    _local(logits_at, offset, end)
    hooks = edit_hooks(layout, edits, whole_prompt)
    kept: dict[Site, mx.array] = {}
    hooks += capture_hooks(layout, sites, pos, kept)
    if logits_at is not None:
        hooks.append(slice_hook(layout, logits_at))
    with Restored(prompt_cache), norms_noted() as norms:
        logits = _forward(layout, ids, hooks, prompt_cache)
        refuse_unused(hooks)
        note_offset(prompt_cache, end)
        mx.eval(*((logits, *cached_arrays(prompt_cache)) if unembed else ()), *kept.values(), *norms.arrays)
    norms.warn()
    given = logits if unembed else mx.zeros((ids.shape[0], 0, 0))
    return RunResult(given, {site: kept[site] for site in sites}, ids, positions, end)


def cache_of(ran: RunResult, model: Mapping[str, str], n_layers: int) -> ActivationCache:
    """What a run kept, as a cache.

    Args:
        ran: The run.
        model: The model's identity.
        n_layers: How many blocks it has.
    """
    return ActivationCache(ran.activations, ran.tokens, ran.positions, ran.n_positions, model, n_layers)


def _local(pos: PositionChoice, offset: int, end: int) -> Sequence[int]:
    chosen = as_positions(pos)
    return range(end - offset) if chosen is None else Span(offset, end - offset, end).local(chosen)


def _forward(layout: Layout, tokens: mx.array, hooks: list[Hook], prompt_cache: Sequence[Any] | None) -> mx.array:
    cached = {} if prompt_cache is None else {"cache": prompt_cache}
    if not hooks:
        refuse_random(layout.model)
        return layout.model(tokens, **cached)
    return Frame(layout.model, hooks).around(layout.model, tokens, **cached)
