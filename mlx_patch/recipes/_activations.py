"""Activations of prompts as recipes take them: caches of whole prompts, and arrays at one position of each."""

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx

from mlx_patch import arguments
from mlx_patch.cache import ActivationCache
from mlx_patch.errors import SelectionError, listed, shown
from mlx_patch.interventions import PositionChoice
from mlx_patch.model import HookedModel, SiteChoice, require_hooked
from mlx_patch.sites import Site
from mlx_patch.sweeps import batches_of


def layers_with(model: HookedModel, site: str) -> list[int]:
    """The layers that have a site.

    Raises:
        MissingSiteError: There are none; the message has the reason.
        SelectionError: The model has the site once, and not in its blocks.
    """
    site = arguments.string("at", site)
    layers = [place.layer for place in model.layout.select(site, None) if place.layer is not None]
    if not layers:
        raise SelectionError(f"`at` must be a site of blocks. Got {shown(site)}. Take 'resid_post', say.")
    return sorted(layers)


def layers_of(name: str, layers: Any, by_layer: Mapping[int, Any]) -> tuple[int, ...]:
    """The layers that a caller names, each of which has a value.

    Raises:
        SelectionError: A layer has none, or what is named is no list of layers.
    """
    chosen = arguments.chosen_numbers(name, layers) or ()
    for layer in chosen:
        if layer not in by_layer:
            raise SelectionError(f"`{name}` must be among {listed(by_layer)}. Got {layer}.")
    return chosen


def caches_of(model: HookedModel, prompts: Any, sites: SiteChoice, pos: PositionChoice = None) -> list[ActivationCache]:
    """The activations of prompts as a sweep takes them: one cache, or one a prompt of a list."""
    [batch, *_] = batches_of(prompts, model.tokenizer, model.d_vocab)
    if batch.alone:
        return model.run_each_with_cache(prompts, sites, logits_at=-1, pos=pos)[1]
    return [model.run_with_cache(prompts, sites, logits_at=-1, pos=pos)[1]]


def activations_at(model: HookedModel, prompts: Any, site: str, pos: PositionChoice = -1) -> dict[int, mx.array]:
    """The activation of each prompt at one position, by layer. Shape of each: `(prompt, 1, ...)`.

    Raises:
        SelectionError: `pos` chooses several positions of a prompt.
    """
    sites = [Site(site, layer) for layer in layers_with(model, site)]
    caches = caches_of(model, prompts, sites, pos)
    for cache in caches:
        if len(cache.positions) != 1:
            raise SelectionError(
                f"`pos` must choose one position of each prompt. Got {list(cache.positions)}. Use `.first` or `.final` "
                "of a selector."
            )
    by_layer = {}
    for layer in caches[0].layers(site):
        rows = [cache[site, layer] for cache in caches]
        by_layer[layer] = mx.concatenate(rows)
    return by_layer


def mean_activations(
    model: HookedModel, prompts: Any, at: str = "resid_post", pos: PositionChoice = -1
) -> Mapping[int, mx.array]:
    """The mean activation over prompts at one position of each, by layer, in float32.

    Args:
        model: The model.
        prompts: As of `sweep`: a prompt, a batch, or a list of prompts of any lengths.
        at: A site of blocks.
        pos: One position of each prompt: a number, or a selector.
    Returns:
        By layer, the mean. Shape of each: that of the site without batch and position, `(d_model,)` for a stream.
    Raises:
        MissingSiteError: No layer has the site; the message has the reason.
        SelectionError: `pos` chooses several positions of a prompt.
    """
    require_hooked("model", model)
    by_layer = activations_at(model, prompts, at, pos)
    means = {}
    for layer, values in by_layer.items():
        means[layer] = values.astype(mx.float32).mean(axis=(0, 1))
    return means


def replaced(sources: Sequence[Any]) -> Any:
    """Sources as the argument `intervention` of a sweep: one, or a list with one a prompt."""
    return sources[0] if len(sources) == 1 else list(sources)
