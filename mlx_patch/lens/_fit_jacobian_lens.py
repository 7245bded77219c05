"""`fit_jacobian_lens`: the mean Jacobian of the last stream by the stream at each layer.

One backward pass gives a row of the Jacobians of all layers at once. A pass has several rows of one prompt, each of
which goes back from an entry of the last stream of its own, summed over all positions. What lies before a position
does not depend on it, so that the sum over all positions is the sum from that position on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

from mlx_patch import arguments
from mlx_patch.architectures import Layout
from mlx_patch.engine import Action, ForwardPass, Frame, differentiable
from mlx_patch.errors import ArchitectureError, ValueRefusedError, shown
from mlx_patch.lens._corpus import Corpus, Runs, checked_skip, prompts_behind, split_corpus, stream_sites
from mlx_patch.lens._fit_record import FitRecord
from mlx_patch.lens._fitted_lens import last_stream, lens_identity
from mlx_patch.lens._held_out import held_out_scores
from mlx_patch.lens._jacobian_lens import JacobianLens
from mlx_patch.model import (
    HookedModel,
    SiteChoice,
    action_hooks,
    capture_hooks,
    checked_count,
    refuse_read_out,
    refuse_unused,
    require_hooked,
    trace,
)
from mlx_patch.sites import Site


def fit_jacobian_lens(
    model: HookedModel,
    corpus: Corpus,
    sites: SiteChoice = "resid_post",
    *,
    rows: int = 16,
    share: float = 1.0,
    skip: int = 1,
    held_out: float = 0.2,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> JacobianLens:
    """The mean, over positions `t`, of the derivative of the last stream at `t` and later by the stream at `t`.

    `matrix = mean over t of (sum over t' >= t of d last_stream[t'] / d stream[t])`.

    All sites are fitted in one sweep back. A prompt costs `share * d_model` forward and backward passes, of which
    `rows` run together: 576 for each prompt of SmolLM2. Memory holds the activations of `rows` copies of one prompt,
    and a matrix a site.

    Args:
        model: The model. Its weights stay as they are.
        corpus: Texts, chats or token ids.
        sites: Of the stream: "resid_pre", "resid_mid", "resid_post" at all layers, or single ones.
        rows: How many entries of the last stream are gone back from at once.
        share: The share of these entries that each prompt is gone back from, above 0 and at most 1. They are dealt out
            in turn, in a seeded order. Every entry is then a mean over that share of the prompts.
        skip: How many first positions are left out. The first one's stream is hundreds of times longer than the others
            in most models, and hardly anything that is added to it changes what follows.
        held_out: The share of prompts that is held out to tell what the lens is worth, above 0 and below 1.
        seed: Which, and which entries each prompt has.
        progress: A function of the prompts that are done and of all, called after each.
    Returns:
        The lens. `fit` has the divergences on held-out prompts, before and after.
    Raises:
        MissingSiteError: A site is not of the stream, or the stream alone does not decide the model's logits.
        ArchitectureError: The model runs something that has no gradient.
        ValueRefusedError: There are fewer than two prompts, or too few for the share; a number does not fit.
        KindError: The corpus is no list of prompts.
    Source:
        Hernandez et al. 2023, https://arxiv.org/abs/2308.09124, section 3.1, for a mean Jacobian in a model's place.
    """
    model = require_hooked("model", model)
    refuse_read_out(model.layout)
    chosen = stream_sites(model, sites)
    rows, seed = checked_count("rows", rows, "rows"), arguments.whole_number("seed", seed, 0)
    skip = checked_skip(skip)
    if progress is not None:
        arguments.function("progress", progress, "a function of (done, total), or None")
    prompts = prompts_behind(model, corpus, skip)
    halves = split_corpus(len(prompts), held_out, seed)
    means = _Means.of(model.layout, chosen)
    dealt = _dealt(means.width, len(halves.fitted), share, seed)
    with differentiable(model.model):
        for n_done, number in enumerate(halves.fitted):
            entries = dealt[n_done]
            for begin in range(0, len(entries), rows):
                means.add(prompts[number], entries[begin : begin + rows], skip)
            if progress is not None:
                progress(n_done + 1, len(dealt))
    matrices = means.matrices()

    def translated(site: Site, stream: mx.array) -> mx.array:
        return stream.astype(mx.float32) @ matrices[site].T

    runs = Runs(model, prompts, (*chosen, last_stream(model)), skip)
    scores = held_out_scores(model, runs, halves.held_out, chosen, translated)
    identity = lens_identity(model)
    settings: dict[str, Any] = {"share": share, "skip": skip, "held_out": held_out, "seed": seed}
    n_positions = sum(prompts[number].shape[1] - skip for number in halves.fitted)
    fit = FitRecord(settings, identity, len(halves.fitted), n_positions, *scores)
    return JacobianLens(model, identity, matrices, fit)


def _dealt(width: int, n_prompts: int, share: float, seed: int) -> list[list[int]]:
    """The entries of the last stream that each prompt is gone back from, dealt out in turn.

    Raises:
        ValueRefusedError: The share is none, or leaves an entry without a prompt.
    """
    if not 0 < arguments.number("share", share) <= 1:
        raise ValueRefusedError(f"`share` must lie above 0, and be 1 at most. Got {shown(share)}.")
    n_entries = max(1, round(share * width))
    if n_entries * n_prompts < width:
        raise ValueRefusedError(
            f"`share` must give each of {width} entries a prompt. Got {share} of {n_prompts} prompts, which give "
            f"{n_entries * n_prompts}. Choose a larger share, or give more prompts."
        )
    order = np.random.default_rng(seed).permutation(width)
    turns = np.arange(n_prompts * n_entries).reshape(n_prompts, n_entries) % width
    return order[turns].tolist()


@dataclass(eq=False)
class _Means:
    """Sums of derivatives, and how many positions each row is a sum over.

    Attributes:
        layout: The model's layout.
        sums: By site. Shape `(width, width)`, float32: by entry of the last stream, and of the stream.
        counts: By entry of the last stream. Shape `(width,)`.
    """

    layout: Layout
    sums: dict[Site, mx.array]
    counts: np.ndarray
    width: int = field(default=0)

    @classmethod
    def of(cls, layout: Layout, sites: Sequence[Site]) -> _Means:
        """Sums of nothing."""
        last = Site("resid_post", len(layout.blocks) - 1)
        streams = trace(layout, mx.array([[0]]), (*sites, last))
        width = streams[last].shape[-1]
        sums = {site: mx.zeros((width, streams[site].shape[-1])) for site in sites}
        return cls(layout, sums, np.zeros(width), width)

    def add(self, tokens: mx.array, entries: Sequence[int], skip: int) -> None:
        """Add the derivatives of some entries of the last stream over one prompt. `tokens` has the shape `(1, pos)`."""
        repeated = mx.repeat(tokens, len(entries), axis=0)
        streams = trace(self.layout, repeated, tuple(self.sums))
        zeros = [mx.zeros_like(streams[site]) for site in self.sums]
        indices = mx.array(list(entries))
        picked = mx.eye(self.width)[indices]

        def total(deltas: list[mx.array]) -> mx.array:
            final = self._final_stream(repeated, deltas)
            return (final.astype(mx.float32) * picked[:, None]).sum()

        gradients = mx.grad(total)(zeros)
        for site, gradient in zip(self.sums, gradients, strict=True):
            rows = gradient[:, skip:].astype(mx.float32).sum(axis=1)
            of_site = self.sums[site]
            self.sums[site] = of_site.at[indices].add(rows)
        self.counts[entries] += tokens.shape[1] - skip
        mx.eval(self.sums)

    def _final_stream(self, tokens: mx.array, deltas: Sequence[mx.array]) -> mx.array:
        """The stream that leaves the last block, with something added at each site. Unevaluated."""
        last = Site("resid_post", len(self.layout.blocks) - 1)
        captures: dict[Site, mx.array] = {}
        places = [self.layout.place(site) for site in self.sums]
        actions = [_adding(delta) for delta in deltas]
        hooks = action_hooks(self.layout, zip(places, actions, strict=True))
        hooks += capture_hooks(self.layout, [last], None, captures)
        keywords: dict[str, Any] = {}
        if self.layout.family.cached:
            keywords["cache"] = make_prompt_cache(self.layout.model)
        Frame(self.layout.model, hooks).around(self.layout.model, tokens, **keywords)
        refuse_unused(hooks)
        return captures[last]

    def matrices(self) -> dict[Site, mx.array]:
        """The means.

        Raises:
            ArchitectureError: One is not a number.
        """
        counts = mx.array(self.counts.astype(np.float32))[:, None]
        means = {site: total / counts for site, total in self.sums.items()}
        mx.eval(means)
        for site, mean in means.items():
            if not mx.all(mx.isfinite(mean)).item():
                raise ArchitectureError(
                    f"`model` must be differentiable. Got one whose gradient at {site} is not a number, as of a square "
                    "root at 0. Choose later sites, or fit a tuned lens."
                )
        return means


def _adding(delta: mx.array) -> Action:
    def add(value: mx.array, forward_pass: ForwardPass) -> mx.array:
        return value + delta

    return add
