"""Task vectors: does one activation hold what the examples in a prompt show?"""

from collections.abc import Iterable
from typing import Any, Unpack

from mlx_patch.interventions import Replace
from mlx_patch.model import HookedModel, require_hooked
from mlx_patch.recipes._activations import layers_of, mean_activations
from mlx_patch.recipes._axes import along_axes
from mlx_patch.sweeps import RunChoices, SweepResult, sweep
from mlx_patch.tokens import Prompts


def task_vector(
    model: HookedModel,
    demonstrations: Prompts,
    queries: Prompts,
    metric: Any,
    layers: Iterable[int] | None = None,
    **how: Unpack[RunChoices],
) -> SweepResult:
    """The stream behind some examples of a task, put into queries without examples, at one layer after another.

    The vector of a layer is `mean_activations(model, demonstrations)[layer]`. It replaces the stream at the queries'
    last position.

    Args:
        model: The model.
        demonstrations: As of `sweep`: prompts that end where the answer would begin, `"hot -> cold\\nbig ->"`. The mean
            over several is taken. Their last question should be none of the queries.
        queries: As of `sweep`: `"fast ->"`.
        metric: As of `sweep`, on the queries.
        layers: The layers; None is all.
        how: As of `sweep`.
    Returns:
        A sweep over `layer`. Its baseline is the queries without a patch. Choose the layer on other queries than those
        that you report.
    Raises:
        PatchError: As of `sweep`.
    Source:
        Hendel et al. 2023, https://arxiv.org/abs/2310.15916, section 3.
    Example:
        `mp.recipes.task_vector(model, "hot -> cold\\nup -> down\\nbig ->", "fast ->", mp.metrics.Prob(" slow"))`
    """
    require_hooked("model", model)
    vectors = mean_activations(model, demonstrations)
    chosen = tuple(vectors) if layers is None else layers_of("layers", layers, vectors)
    cells = [Replace(vectors[layer]).at("resid_post", layer=layer, pos=-1) for layer in chosen]
    by_cell = sweep(model, queries, over=cells, metric=metric, **how)
    return along_axes(by_cell, {"layer": chosen})
