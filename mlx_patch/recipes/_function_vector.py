"""Function vectors: which heads carry a task, and what do they write?"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import mlx.core as mx
import numpy as np

from mlx_patch import arguments
from mlx_patch.errors import ArchitectureError, KindError, SelectionError, listed, shown
from mlx_patch.interventions import Ablate, Edit, Replace
from mlx_patch.model import HookedModel, require_hooked
from mlx_patch.recipes._activations import layers_of, mean_activations
from mlx_patch.recipes._axes import along_axes
from mlx_patch.sites import Site
from mlx_patch.sweeps import RunChoices, SweepResult, sweep
from mlx_patch.tokens import Prompts


@dataclass(frozen=True, eq=False)
class FunctionVector:
    """What the heads of a task write to the stream.

    Attributes:
        vector: The sum over the heads of what their mean activation adds to the stream. Shape `(d_model,)`, float32.
        heads: Layers and heads, the strongest first.
        effects: The mean activation of each head, put into the corrupted prompts: over `layer` and `head`.
        means: By layer, the mean `z` of all its heads, for `head_outputs` of others. Shape of each: `(head, d_head)`.
    """

    vector: mx.array
    heads: tuple[tuple[int, int], ...]
    effects: SweepResult
    means: Mapping[int, mx.array]


def function_vector(
    model: HookedModel,
    demonstrations: Prompts,
    corrupted: Prompts,
    metric: Any,
    n_heads: int = 10,
    layers: Iterable[int] | None = None,
    **how: Unpack[RunChoices],
) -> FunctionVector:
    """The heads whose mean activation brings a task back, and the sum of what they write.

    To use it, `mp.Add(found.vector).at("resid_post", layer=..., pos=-1)`.

    Args:
        model: The model.
        demonstrations: As of `sweep`: prompts with examples of the task, whose mean `z` at the last position is taken.
        corrupted: As of `sweep`: prompts of the same form whose examples have the wrong answers.
        metric: As of `sweep`, on the corrupted prompts: the probability of the right answer, in the paper.
        n_heads: How many heads are summed.
        layers: The layers whose heads are tried; None is all that have them.
        how: As of `sweep`.
    Raises:
        MissingSiteError: No layer has `z`; the message has the reason.
        PatchError: As of `sweep`.
    Source:
        Todd et al. 2023, https://arxiv.org/abs/2310.15213, section 2.
    """
    require_hooked("model", model)
    means = mean_activations(model, demonstrations, "z")
    n_heads = arguments.whole_number("n_heads", n_heads, 1)
    chosen = means if layers is None else layers_of("layers", layers, means)
    by_layer = {layer: range(means[layer].shape[0]) for layer in chosen}
    widths = sorted(set(map(len, by_layer.values())))
    if len(widths) > 1:
        raise ArchitectureError(
            f"`model` must have as many heads in each layer. Got {listed(widths)}. Sweep 'z' for each number by itself."
        )
    heads = [(layer, head) for layer, numbers in by_layer.items() for head in numbers]
    cells = []
    for layer, head in heads:
        mean = Replace(means[layer][head])
        cells.append(mean.at("z", layer=layer, head=head, pos=-1))
    effects = sweep(model, corrupted, over=cells, metric=metric, **how)
    gains = effects.mean() - effects.baseline_mean()
    order = np.argsort(-gains)[:n_heads]
    strongest = tuple(heads[number] for number in order.tolist())
    by_head = along_axes(effects, {"layer": by_layer, "head": range(widths[0])})
    return FunctionVector(head_outputs(model, means, strongest), strongest, by_head, means)


def head_outputs(model: HookedModel, means: Mapping[int, mx.array], heads: Sequence[tuple[int, int]]) -> mx.array:
    """What some heads add to the stream with these values of `z`, summed, through each layer's output projection.

    Where a norm follows the projection, the heads of a layer go through it together, without the others.

    Args:
        model: The model.
        means: By layer, `z` of all its heads. Shape of each: `(head, d_head)`.
        heads: The layers and heads.
    Returns:
        The sum. Shape `(d_model,)`, float32.
    Raises:
        SelectionError: A layer or head is not there.
    """
    require_hooked("model", model)
    heads = _checked_heads(means, heads)
    layers = sorted({layer for layer, _ in heads})
    without = [Ablate("zero").at("z", layer=layers)]
    alone = []
    for layer, head in heads:
        value = Replace(means[layer][head])
        alone.append(value.at("z", layer=layer, head=head))
    bias = _attention_sum(model, layers, without)
    return _attention_sum(model, layers, [*without, *alone]) - bias


def _checked_heads(means: Any, heads: Any) -> list[tuple[int, int]]:
    """Layers and heads, each of which has a value."""
    arguments.mapping("means", means, "a mapping of layers to `z`", "Use `mp.recipes.mean_activations`.")
    checked = []
    for head in arguments.entries("heads", heads, "a list of (layer, head)"):
        pair = arguments.whole_numbers("heads", head, "a list of (layer, head)")
        if len(pair) != 2:
            raise KindError(f"`heads` must be a list of (layer, head). Got {shown(head)}.")
        layer, number = pair
        if layer not in means or not 0 <= number < len(arguments.numeric("means", means[layer])):
            raise SelectionError(f"`heads` must be heads that `means` has. Got {pair}.")
        checked.append((layer, number))
    if not checked:
        raise SelectionError("`heads` must name a head. Got none.")
    return checked


def _attention_sum(model: HookedModel, layers: Sequence[int], edits: Sequence[Edit]) -> mx.array:
    """What the attention of some layers adds, where edits say all of `z`: any one token does as a prompt."""
    sites = [Site("attn_out", layer) for layer in layers]
    _, cache = model.run_with_cache([[0]], sites, edits)
    added = mx.stack([cache[site][0, 0] for site in sites])
    return added.astype(mx.float32).sum(axis=0)
