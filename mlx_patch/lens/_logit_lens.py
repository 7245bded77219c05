"""`logit_lens`: the model's own final norm and unembedding, at the stream of any layer."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from mlx_patch.errors import MissingSiteError, listed
from mlx_patch.interventions import Edit, PositionChoice
from mlx_patch.lens._fitted_lens import FittedLens, require_lens
from mlx_patch.lens._lens_result import LogitLens
from mlx_patch.model import HookedModel, SiteChoice, chosen_sites, refuse_read_out, require_hooked
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
        tokens: A text, chat messages, or token ids of shape `(batch, pos)` or `(pos,)`.
        sites: Of the stream: "resid_pre", "resid_mid", "resid_post" at all layers, or single ones, ("resid_post", 3).
        pos: The positions to look at, absolute or from the end; None is all.
        edits: Edits of the run.
        lens: A fitted lens, such as a `TunedLens`, which translates each stream before the final norm reads it. None is
            none: the logit lens.
    Returns:
        The lens: `top`, `prob`, `rank`, `kl`, `plot`, `to_html`.
    Raises:
        MissingSiteError: A site is not of the stream, or the stream alone does not decide the model's logits; a fitted
            lens has no map for it.
        ValueRefusedError: A fitted lens is for another model.
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
    logits, cache = model.run_with_cache(tokens, chosen, edits, logits_at=pos, pos=pos)
    texts = ()
    if model.tokenizer is not None:
        rows = np.array(cache.tokens)
        texts = tuple(shared_token(model.tokenizer, rows[:, position]) for position in cache.positions)
    streams = {site: cache[site] for site in chosen}
    return LogitLens(model, streams, logits, cache.tokens, cache.positions, texts, lens)


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
