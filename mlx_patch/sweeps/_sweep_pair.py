"""`sweep_pair`: a clean and a corrupted prompt, each patched into the other."""

from dataclasses import replace
from typing import Any, Unpack

import mlx.core as mx

from mlx_patch.errors import KindError, ShapeError
from mlx_patch.interventions import Replace
from mlx_patch.model import HookedModel, require_hooked
from mlx_patch.positions import Alignment
from mlx_patch.results import PairResult, SweepResult
from mlx_patch.sweeps._sweep import sweep
from mlx_patch.sweeps._variation import SweepChoices
from mlx_patch.tokens import Batch, Prompts, batches_of


def sweep_pair(
    model: HookedModel,
    clean: Prompts,
    corrupted: Prompts,
    at: Any = None,
    *,
    metric: object = None,
    positions: Any = None,
    **choices: Unpack[SweepChoices],
) -> PairResult:
    """Patch a clean and a corrupted prompt into each other, and return both sweeps.

    Denoising puts the clean run's activations into the corrupted prompt, noising the other way round. Both results are
    fractions of the gap: 1 is the clean run, 0 the corrupted one.

    Args:
        model: The model.
        clean: As `tokens` of `sweep`; of one length. Each prompt is an example.
        corrupted: As many prompts, of the same length, or of any with an alignment.
        at: A site, or several where `over` has "site".
        metric: One metric, the same for both. Its gap between clean and corrupted is what values are a fraction of.
        positions: As `sweep` takes it; or `mp.align(clean, corrupted)` for prompts of unequal length. The results then
            have the positions of `corrupted`.
        choices: Everything else as `sweep` takes it: `over`, `layers`, `positions`, `executor`, `memory` ...
    Returns:
        Both sweeps, and `summary()`: which cells are sufficient, necessary, or both.
    Raises:
        ShapeError: The prompts differ in number or length.
        PatchError: As `sweep`.
    Source:
        Heimersheim and Nanda 2024, https://arxiv.org/abs/2404.15255, sections 2 and 3.
    """
    require_hooked("model", model)
    _refuse_several(metric, choices)
    clean_tokens = _one_batch("clean", clean, model).tokens
    corrupted_tokens = _one_batch("corrupted", corrupted, model).tokens
    noising_positions = positions
    is_aligned = isinstance(positions, Alignment)
    if is_aligned:
        noising_positions = positions.inverse
    elif clean_tokens.shape != corrupted_tokens.shape:
        raise ShapeError(
            f"`corrupted` must have the shape of `clean`, {clean_tokens.shape}. Got {corrupted_tokens.shape}. "
            "Say which position stands for which: positions=mp.align(clean, corrupted)."
        )
    sites = (at,) if isinstance(at, str) else at

    def patch(target: mx.array, source: mx.array, where: Any) -> SweepResult:
        intervention = Replace(_donor(model, source, sites))
        return sweep(model, target, intervention, at, metric=metric, positions=where, **choices)

    noising = patch(clean_tokens, corrupted_tokens, noising_positions)
    denoising = patch(corrupted_tokens, clean_tokens, positions)
    if is_aligned and "pos" in noising.axes:
        noising = replace(noising, coords={**noising.coords, "pos": denoising.coords["pos"]})
    ends = {"clean": noising.baseline, "corrupted": denoising.baseline}
    return PairResult(denoising.normalised(**ends), noising.normalised(**ends))


def _donor(model: HookedModel, tokens: mx.array, sites: Any) -> Any:
    """The activations that are put into the other prompt: those of the sites that `at` names."""
    if sites is None or (isinstance(sites, list | tuple) and not sites):
        raise KindError("`at` must be a site. Got None. Write at='resid_post', say.")
    return model.run_with_cache(tokens, sites=sites, logits_at=-1)[1]


def _one_batch(name: str, prompts: Prompts, model: HookedModel) -> Batch:
    batches = list(batches_of(prompts, model.tokenizer, model.d_vocab))
    if len(batches) > 1:
        lengths = sorted(batch.length for batch in batches)
        raise ShapeError(f"`{name}` must hold prompts of one length. Got {lengths} tokens. Sweep each by itself.")
    return batches[0]


def _refuse_several(metric: object, choices: SweepChoices) -> None:
    if isinstance(metric, list | tuple) and len(metric) != 1:
        raise KindError(f"`metric` must be one metric. Got {len(metric)}. Sweep the pair once for each.")
    if "checkpoint" in choices:
        raise KindError("`checkpoint` must be left out: a pair is two sweeps. Call `sweep` for each.")
