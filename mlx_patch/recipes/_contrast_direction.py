"""A direction that a behaviour hangs on: a difference of means, chosen on held-out prompts."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Unpack

import mlx.core as mx
import numpy as np

from mlx_patch import arguments
from mlx_patch.errors import KindError, ValueRefusedError
from mlx_patch.interventions import Add, Edit, Project
from mlx_patch.model import HookedModel, require_hooked
from mlx_patch.recipes._activations import layers_of, mean_activations
from mlx_patch.recipes._axes import along_axes
from mlx_patch.sweeps import RunChoices, SweepResult, sweep
from mlx_patch.tokens import Prompts

_LATEST = 0.8
"""Share of the layers that candidates come from, as in the paper: later ones write the answer itself."""


@dataclass(frozen=True, eq=False)
class ContrastDirection:
    """A direction, and how it and its rivals did on the held-out prompts.

    Attributes:
        vector: The difference of means. Shape `(d_model,)`, float32.
        layer: The layer at whose `resid_pre` it was found.
        added: The metric of the held-out negative prompts with each candidate added, over `layer`.
        ablated: The metric of the held-out positive prompts with each candidate projected out, over `layer`.
    """

    vector: mx.array
    layer: int
    added: SweepResult
    ablated: SweepResult

    def addition(self, scale: float = 1.0) -> Edit:
        """The edit that adds the direction at its layer, at all positions."""
        return Add(self.vector, scale).at("resid_pre", layer=self.layer)

    def ablation(self, model: HookedModel) -> list[Edit]:
        """The edits that keep the direction out of the stream, in every layer and at all positions."""
        return ablation_of(model, self.vector)


def contrast_direction(
    model: HookedModel,
    positives: Prompts,
    negatives: Prompts,
    metric: Any,
    held_out: tuple[Prompts, Prompts],
    pos: int = -1,
    layers: Iterable[int] | None = None,
    **how: Unpack[RunChoices],
) -> ContrastDirection:
    """The direction from negative to positive prompts that decides most, on held-out prompts, in both ways.

    For each layer, the candidate is the mean `resid_pre` of the positive prompts minus that of the negative ones. It
    must raise the metric of held-out negative prompts where it is added. Of those, the one is chosen whose removal
    lowers the metric of held-out positive prompts most.

    Args:
        model: The model.
        positives: As of `sweep`: prompts with the behaviour.
        negatives: Prompts without it.
        metric: As of `sweep`: large where the behaviour is there.
        held_out: Positive and negative prompts, others than those above.
        pos: The position of each prompt that means are taken at.
        layers: The layers that candidates come from; None is the first 80 %, without the first.
        how: As of `sweep`.
    Raises:
        ValueRefusedError: No candidate raises the metric of the held-out negative prompts.
        PatchError: As of `sweep`.
    Source:
        Arditi et al. 2024, https://arxiv.org/abs/2406.11717, sections 2.3 and 2.4. They also leave out candidates whose
        removal changes answers to negative prompts.
    """
    require_hooked("model", model)
    positive_means = mean_activations(model, positives, "resid_pre", pos)
    negative_means = mean_activations(model, negatives, "resid_pre", pos)
    chosen: Iterable[int] = range(1, max(2, int(_LATEST * model.n_layers)))
    if layers is not None:
        chosen = layers_of("layers", layers, positive_means)
    candidates = {layer: positive_means[layer] - negative_means[layer] for layer in chosen}
    held_out_positives, held_out_negatives = _both(held_out)
    additions = [Add(vector).at("resid_pre", layer=layer) for layer, vector in candidates.items()]
    ablations = [ablation_of(model, vector) for vector in candidates.values()]
    by_cell = sweep(model, held_out_negatives, over=additions, metric=metric, **how)
    added = along_axes(by_cell, {"layer": candidates})
    by_cell = sweep(model, held_out_positives, over=ablations, metric=metric, **how)
    ablated = along_axes(by_cell, {"layer": candidates})
    layer = list(candidates)[_best(added, ablated)]
    return ContrastDirection(candidates[layer], layer, added, ablated)


def ablation_of(model: HookedModel, direction: mx.array) -> list[Edit]:
    """The edits that keep a direction out of the stream: out of the embedding, and of all that layers add to it.

    Args:
        model: The model.
        direction: Shape `(d_model,)`, or `(direction, d_model)` for several.
    """
    require_hooked("model", model)
    names = {site.name for site in model.sites}
    project = Project(direction)
    return [project.at(site) for site in ("embed", "mixer_out", "mlp_out") if site in names]


def _both(held_out: Any) -> tuple[Prompts, Prompts]:
    """The positive and the negative prompts that are held out."""
    prompts = arguments.entries("held_out", held_out, "positive and negative prompts, (positives, negatives)")
    if len(prompts) != 2:
        raise KindError(
            f"`held_out` must be positive and negative prompts, (positives, negatives). Got {len(prompts)} entries."
        )
    return prompts[0], prompts[1]


def _best(added: SweepResult, ablated: SweepResult) -> int:
    """The place of the candidate to choose."""
    raises = added.mean() > added.baseline_mean()
    if not raises.any():
        raise ValueRefusedError(
            "`negatives` must differ from `positives` in what the metric measures. Got no layer whose difference of "
            "means raises the metric of held-out negative prompts. Check the prompts and the metric."
        )
    return int(np.argmin(np.where(raises, ablated.mean(), np.inf)))
