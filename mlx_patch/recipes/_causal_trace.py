"""Causal tracing: where does a model recall what it says of a subject?"""

from typing import Any, Unpack

from mlx_patch import arguments
from mlx_patch.interventions import Ablate, PositionChoice, Replace
from mlx_patch.model import HookedModel, require_hooked
from mlx_patch.recipes._activations import caches_of, layers_with, replaced
from mlx_patch.sweeps import RunChoices, SweepResult, sweep, windows
from mlx_patch.tokens import Prompts


def causal_trace(
    model: HookedModel,
    prompts: Prompts,
    subject: PositionChoice,
    metric: Any,
    at: str = "resid_post",
    width: int = 1,
    scale: float = 3.0,
    seeds: Any = range(5),
    positions: Any = None,
    **how: Unpack[RunChoices],
) -> SweepResult:
    """Noise on the subject, and clean activations restored at one place after another.

    Args:
        model: The model.
        prompts: As of `sweep`.
        subject: The positions of the subject: `mp.pos.text("Mars")`, say.
        metric: As of `sweep`: the probability of the answer, in the paper.
        at: The site that is restored.
        width: How many layers in a row are restored together. The paper takes 10 for `mlp_out` and `attn_out`.
        scale: Of the noise, in standard deviations of the embeddings of the run.
        seeds: One draw of the noise each.
        positions: As of `sweep`: where to restore. None is all, where the prompts are of one length.
        how: As of `sweep`: `progress`, `memory`, `checkpoint` and others.
    Returns:
        A sweep over `layer`, `pos` and `seed`. Its baseline is the noised run. `averaged("seed")` is the paper's trace.
    Raises:
        PatchError: As of `sweep`.
    Source:
        Meng et al. 2022, https://arxiv.org/abs/2202.05262, sections 2.1 and 2.2.
    Example:
        `mp.recipes.causal_trace(model, text, mp.pos.text("France"), mp.metrics.Prob(" Paris")).averaged("seed").plot()`
    """
    require_hooked("model", model)
    width = arguments.whole_number("width", width, 1, counted=" layers")
    noise = Ablate("noise", scale=scale).at("embed", pos=subject)
    sources = [Replace(cache) for cache in caches_of(model, prompts, at)]
    return sweep(
        model,
        prompts,
        replaced(sources),
        at=at,
        over=("layer", "pos", "seed"),
        metric=metric,
        layers=windows(layers_with(model, at), width) if width > 1 else None,
        positions=positions,
        seeds=seeds,
        edits=[noise],
        **how,
    )
