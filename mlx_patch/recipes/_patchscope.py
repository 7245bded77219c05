"""Patchscopes: what does a model itself read in an activation of another prompt?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Unpack

import mlx.core as mx

from mlx_patch.errors import ShapeError
from mlx_patch.interventions import PositionChoice, Replace
from mlx_patch.model import HookedModel, require_hooked
from mlx_patch.recipes._activations import activations_at, layers_of
from mlx_patch.recipes._axes import SourceLayerAxis
from mlx_patch.sweeps import RunChoices, SweepResult, batches_of, sweep
from mlx_patch.tokens import Prompt, Prompts

IDENTITY = "cat -> cat\n1135 -> 1135\nhello -> hello\n? ->"
"""A prompt that repeats words: behind it, the model says the word at its last question mark."""


def patchscope(
    model: HookedModel,
    sources: Prompts,
    metric: Any,
    pos: PositionChoice = -1,
    target: Prompt | mx.array = IDENTITY,
    target_pos: Any = -2,
    source_layers: Iterable[int] | None = None,
    layers: Any = (0,),
    **how: Unpack[RunChoices],
) -> SweepResult:
    """The stream of a source, put into a target prompt that makes the model say what it holds.

    Args:
        model: The model.
        sources: As of `sweep`: the prompts whose stream is read. Each is an example.
        metric: As of `sweep`, on the target's last position: the probability of the expected word, say.
        pos: The position that is read, one of each source.
        target: A prompt, one for all sources.
        target_pos: As `positions` of `sweep`: where it is put.
        source_layers: The layers that it is taken from, `resid_post`; None is all.
        layers: As of `sweep`: the layers that it is put into.
        how: As of `sweep`.
    Returns:
        A sweep over `source_layer` and `layer`. Its baseline is the target without a patch.
    Raises:
        ShapeError: `target` is several prompts.
        PatchError: As of `sweep`.
    Source:
        Ghandeharioun et al. 2024, https://arxiv.org/abs/2401.06102, sections 3 and 4.1.
    Example:
        `mp.recipes.patchscope(model, "I went to Greece", mp.metrics.Prob(" Greece"))`
    """
    require_hooked("model", model)
    by_layer = activations_at(model, sources, "resid_post", pos)
    chosen = tuple(by_layer)
    if source_layers is not None:
        chosen = layers_of("source_layers", source_layers, by_layer)
    [batch, *further] = batches_of(target, model.tokenizer, model.d_vocab)
    if further or batch.tokens.shape[0] != 1:
        raise ShapeError("`target` must be one prompt. Got several. Call `patchscope` once for each.")
    return sweep(
        model,
        mx.repeat(batch.tokens, len(by_layer[0]), axis=0),
        Replace(by_layer[0]),
        at="resid_post",
        over=(SourceLayerAxis(chosen, by_layer), "layer"),
        layers=layers,
        positions=target_pos,
        metric=metric,
        **how,
    )
