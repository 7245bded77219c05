"""`logit_lens`: the model's own final norm and unembedding, at the stream of any layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_patch.cache import ActivationCache
from mlx_patch.errors import MissingSiteError, SelectionError, ValueRefusedError, listed
from mlx_patch.interventions import Edit, PositionChoice, Span, as_positions
from mlx_patch.lens._fitted_lens import FittedLens, last_stream, require_lens
from mlx_patch.lens._lens_result import LogitLens
from mlx_patch.model import (
    HookedModel,
    SelectorResolver,
    SiteChoice,
    chosen_sites,
    read_out,
    refuse_read_out,
    require_hooked,
)
from mlx_patch.sites import Site
from mlx_patch.tokens import shared_token

STREAM = ("resid_pre", "resid_mid", "resid_post")
"""The sites that hold the stream."""


def logit_lens(
    model: HookedModel,
    tokens: Any,
    sites: SiteChoice = "resid_post",
    pos: PositionChoice = None,
    edits: Iterable[Edit] = (),
    lens: FittedLens | None = None,
) -> LogitLens:
    """What the model would say if it stopped at a layer: its own final norm and unembedding, on the stream there.

    One run keeps the streams. Logits are made when they are asked for, a part of them at a time, and are not kept. At
    the stream that leaves the last block they are the logits of the run, bit for bit.

    Args:
        model: The model.
        tokens: A text, chat messages, or token ids of shape `(batch, pos)` or `(pos,)`. Or the `ActivationCache` of a
            run that is done, of generated text too: then nothing runs.
        sites: Of the stream: "resid_pre", "resid_mid", "resid_post" at all layers, or single ones, ("resid_post", 3).
        pos: The positions to look at, absolute or from the end; None is all.
        edits: Edits of the run.
        lens: A fitted lens, such as a `TunedLens`, which translates each stream before the final norm reads it. None is
            none: the logit lens.
    Returns:
        The lens: `top`, `prob`, `rank`, `kl`, `plot`, `to_html`.
    Raises:
        MissingSiteError: A site is not of the stream, or the cache does not hold it or the end of the stream. Or the
            stream alone does not decide the model's logits. Or a fitted lens has no map for the site.
        ValueRefusedError: A fitted lens is for another model; or there are edits, and the run is done.
        SelectionError: The cache does not hold a position.
        PatchError: As `HookedModel.run_with_cache` says.
    Source:
        nostalgebraist 2020, "interpreting GPT: the logit lens".
    """
    model = require_hooked("model", model)
    refuse_read_out(model.layout)
    chosen = chosen_sites(model.layout, sites)
    refuse_other_sites(chosen)
    if lens is not None:
        require_lens(lens).require(model, chosen)
    if isinstance(tokens, ActivationCache):
        _refuse_edits(edits)
        return _of_cache(model, tokens, chosen, pos, lens)
    logits, cache = model.run_with_cache(tokens, chosen, edits, logits_at=pos, pos=pos)
    streams = {site: cache[site] for site in chosen}
    texts = _texts_at(model, cache.tokens, cache.positions)
    return LogitLens(model, streams, logits, cache.tokens, cache.positions, texts, lens)


def _of_cache(
    model: HookedModel, cache: ActivationCache, sites: tuple[Site, ...], pos: PositionChoice, lens: FittedLens | None
) -> LogitLens:
    """The lens of a run that is done."""
    end = last_stream(model)
    for site in (*sites, end):
        if site not in cache:
            raise MissingSiteError(
                f"The cache must hold {site}. It has: {cache!r}. Capture `sites=('resid_post',)`, or choose the sites "
                "that it has."
            )
    positions = _positions_in(model, cache, pos)
    places = mx.array([cache.positions.index(position) for position in positions])
    logits = read_out(model.layout, cache[end][:, places])
    mx.eval(logits)
    streams = {site: cache[site][:, places] for site in sites}
    return LogitLens(model, streams, logits, cache.tokens, positions, _texts_at(model, cache.tokens, positions), lens)


def _refuse_edits(edits: Iterable[Edit]) -> None:
    if list(edits):
        raise ValueRefusedError(
            "`edits` must be left out where `tokens` is a cache: its run is done. Got some. Give the tokens, or run "
            "with the edits and give that cache."
        )


def _positions_in(model: HookedModel, cache: ActivationCache, pos: PositionChoice) -> tuple[int, ...]:
    """Absolute positions, all of which a cache holds."""
    choice = as_positions(SelectorResolver(cache.tokens, model.tokenizer).choice("pos", pos))
    if choice is None:
        return cache.positions
    positions = Span(0, cache.n_positions, cache.n_positions).local(choice)
    missing = [position for position in positions if position not in cache.positions]
    if missing:
        raise SelectionError(f"`pos` must be positions that the cache holds. Got {missing} of {cache!r}.")
    return positions


def _texts_at(model: HookedModel, tokens: mx.array, positions: tuple[int, ...]) -> tuple[str, ...]:
    """The token at each position, where there is a tokenizer."""
    if model.tokenizer is None:
        return ()
    rows = np.array(tokens)
    return tuple(shared_token(model.tokenizer, rows[:, position]) for position in positions)


def refuse_other_sites(sites: tuple[Site, ...]) -> None:
    """Refuse sites that do not hold the stream.

    Raises:
        MissingSiteError: The message names them.
    """
    refused_sites = [str(site) for site in sites if site.name not in STREAM]
    if refused_sites:
        raise MissingSiteError(
            f"`sites` must be of the stream: {listed(STREAM)}. Got {listed(refused_sites)}. For what a part of the "
            "stream adds to a logit, use mp.lens.direct_logits."
        )
