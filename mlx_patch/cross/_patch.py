"""`cross_patch`: the activations of one model put into another, layer by layer."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_patch.cache import ActivationCache
from mlx_patch.cross._compatibility import compatibility
from mlx_patch.cross._layer_map import LayerMap
from mlx_patch.cross._linear_map import LinearMap
from mlx_patch.cross._views import FromLayers, Mapped
from mlx_patch.errors import KindError, ShapeError, ValueRefusedError
from mlx_patch.interventions import ActivationSource, Interpolate, Replace
from mlx_patch.model import HookedModel
from mlx_patch.positions import Alignment
from mlx_patch.sites import SITES, Site
from mlx_patch.sweeps import SweepResult, sweep
from mlx_patch.tokens import one_prompt

Donor = HookedModel | ActivationCache | str | os.PathLike[str]
"""A model, its activations, or a file of them."""


def capture(
    donor: HookedModel, tokens: Any, path: str | os.PathLike[str], sites: Any = ("resid_post",), pos: Any = None
) -> Path:
    """Run a donor and keep its activations in a file, for `cross_patch` of another model once this one is gone.

    Args:
        donor: The model.
        tokens: A prompt: token ids, a text or chat messages.
        path: A file that ends in `.safetensors`. Written whole or not at all.
        sites: As of `HookedModel.run_with_cache`.
        pos: Likewise.
    Returns:
        The path.
    Raises:
        FileError: It cannot be written.
        PatchError: As `HookedModel.run_with_cache`.
    """
    ids = one_prompt(tokens, 0, donor.tokenizer, donor.d_vocab)
    donor.run_with_cache(ids, sites=sites, pos=pos, logits_at=-1)[1].save(path)
    return Path(path)


def cross_patch(
    target: HookedModel,
    donor: Donor,
    tokens: Any,
    at: str = "resid_post",
    over: Any = ("layer",),
    metric: object = None,
    *,
    donor_tokens: Any = None,
    alignment: Alignment | None = None,
    layer_map: LayerMap | None = None,
    linear_map: LinearMap | Mapping[int, LinearMap] | None = None,
    file: str | os.PathLike[str] | None = None,
    alpha: float = 1.0,
    **choices: Any,
) -> SweepResult:
    """Put the activations of one model into another, one layer after another, and measure each time.

    Args:
        target: The model that is patched.
        donor: The model that activations come from, its cache, or a file of one (`mp.cross.capture`), so that two
            models that do not fit into memory together can be patched one after the other.
        tokens: The target's prompt: token ids, a text, or chat messages.
        at: A site.
        over: As of `sweep`.
        metric: As of `sweep`.
        donor_tokens: The donor's prompt, where it is another; it wants `alignment` if its length is another.
        alignment: `mp.align(donor_prompt, prompt)`: which position of the donor's prompt stands for which.
        layer_map: Which layer of the donor is put in at which of the target; None where they have equally many.
        linear_map: From the donor's coordinates to the target's, one for all layers or by target layer; `fit_maps`
            learns them.
        file: Where the donor's activations are kept and read from meanwhile; None keeps them in memory.
        alpha: How far to go to the donor's: 1 is all the way.
        choices: More for `sweep`: `layers`, `positions`, `heads`, `executor`, `checkpoint` ...
    Returns:
        A sweep's result, whose provenance names the donor, the maps, and what was cast.
    Raises:
        ValueRefusedError: The two models do not fit, and no map says how; the message names the remedy.
        PatchError: As `sweep`.
    Source:
        Prakash et al. 2024, https://arxiv.org/abs/2402.14811 (CMAP), for patching activations across models.
    """
    site = _site(at)
    source = _source(target, donor, tokens, site, donor_tokens, layer_map, linear_map, alignment, file)
    about = _about(target, source, layer_map, linear_map, alignment)
    seen: ActivationSource = source
    if layer_map is None:
        _refuse_more_layers(target, source, site)
    else:
        seen = FromLayers(seen, layer_map)
        choices.setdefault("layers", list(layer_map.targets))
    if linear_map is not None:
        seen = Mapped(seen, linear_map)
    _refuse_other_width(target, seen, site, choices)
    intervention = Replace(seen, alignment) if alpha == 1.0 else Interpolate(seen, alpha, alignment)
    result = sweep(target, tokens, intervention, at, over, metric, **choices)
    return replace(result, provenance={**result.provenance, "donor": about})


def _site(at: object) -> str:
    if not isinstance(at, str) or at not in SITES or not SITES[at].layered:
        raise KindError(f"`at` must be a site that layers have. Got {at!r}. Write at='resid_post', say.")
    return at


def _source(
    target: HookedModel,
    donor: Donor,
    tokens: Any,
    site: str,
    donor_tokens: Any,
    layer_map: LayerMap | None,
    linear_map: object,
    alignment: Alignment | None,
    file: str | os.PathLike[str] | None,
) -> ActivationCache:
    if isinstance(donor, ActivationCache):
        return donor
    if not isinstance(donor, HookedModel):
        return ActivationCache.load(donor)
    solved = {"layers": layer_map is not None, "width": linear_map is not None, "tokens": donor_tokens is not None}
    compatibility(target, donor).require(solved)
    if layer_map is not None:
        layer_map.require(target.n_layers, donor.n_layers)
    own = one_prompt(tokens, 0, target.tokenizer, target.d_vocab)
    theirs = own if donor_tokens is None else one_prompt(donor_tokens, 0, donor.tokenizer, donor.d_vocab)
    if own.shape != theirs.shape and alignment is None:
        raise ShapeError(
            f"`donor_tokens` must have the {own.shape[1]} positions of `tokens`. Got {theirs.shape[1]}. "
            "Give alignment=mp.align(donor_tokens, tokens)."
        )
    layers = None if layer_map is None else sorted({layer for _, layer in layer_map.pairs})
    sites = [site] if layers is None else [Site(site, layer) for layer in layers]
    if file is not None:
        return ActivationCache.load(capture(donor, theirs, file, sites))
    return donor.run_with_cache(theirs, sites=sites, logits_at=-1)[1]


def _about(
    target: HookedModel,
    source: ActivationCache,
    layer_map: LayerMap | None,
    linear_map: LinearMap | Mapping[int, LinearMap] | None,
    alignment: Alignment | None,
) -> dict[str, Any]:
    """Where the activations come from, as JSON."""
    maps = {"all": linear_map} if isinstance(linear_map, LinearMap) else dict(linear_map or {})
    dtypes = sorted({str(array.dtype).removeprefix("mlx.core.") for array in source.values()})
    return {
        "model": dict(source.model),
        "tokens": source.tokens.tolist(),
        "dtypes": dtypes,
        "cast_to": sorted({str(dtype).removeprefix("mlx.core.") for dtype in _stream_dtypes(target)} - set(dtypes)),
        "layer_map": None if layer_map is None else [list(pair) for pair in layer_map.pairs],
        "linear_map": {str(layer): {"held_out_r2": one.r2, "rows": one.rows} for layer, one in maps.items()},
        "alignment": None if alignment is None else [list(pair) for pair in alignment.pairs],
    }


def _stream_dtypes(target: HookedModel) -> set[mx.Dtype]:
    """The dtype of the target's stream, from a run of one token."""
    return {target.run_with_cache(mx.zeros((1, 1), mx.int32), sites=("embed",), logits_at=-1)[1]["embed"].dtype}


def _refuse_more_layers(target: HookedModel, source: ActivationCache, site: str) -> None:
    """Refuse a deeper donor, where it is a cache or a file and was not compared."""
    deepest = max((held.layer for held in source if held.name == site and held.layer is not None), default=-1)
    if deepest >= target.n_layers:
        raise ValueRefusedError(
            f"`donor` must have the target's {target.n_layers} layers. Got layer {deepest}. "
            "Give layer_map=mp.LayerMap.proportional(target.n_layers, donor.n_layers)."
        )


def _refuse_other_width(target: HookedModel, seen: ActivationSource, site: str, choices: Mapping[str, Any]) -> None:
    """Refuse a stream of another width, where the donor is a cache or a file and was not compared."""
    if SITES[site].axes[-1] != "d_model":
        return
    layers = choices.get("layers")
    some = (
        range(target.n_layers) if layers is None else layers if isinstance(layers, list | tuple | range) else [layers]
    )
    held = [Site(site, layer) for layer in some if isinstance(layer, int) and Site(site, layer) in seen]
    if held and seen[held[0]].shape[-1] != target.d_model:
        raise ShapeError(
            f"`donor` must have a stream of {target.d_model}, the target's. Got {seen[held[0]].shape[-1]}. "
            "Give linear_map=mp.cross.fit_maps(target, donor, prompts)."
        )
