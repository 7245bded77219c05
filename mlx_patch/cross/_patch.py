"""`cross_patch`: the activations of one model put into another, layer by layer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack, cast

import mlx.core as mx

from mlx_patch import arguments
from mlx_patch.cache import ActivationCache
from mlx_patch.cross._compatibility import compatibility
from mlx_patch.cross._layer_map import LayerMap
from mlx_patch.cross._linear_map import LinearMap
from mlx_patch.cross._views import FromLayers, Mapped
from mlx_patch.errors import KindError, ShapeError, ValueRefusedError, listed, shown
from mlx_patch.interventions import Interpolate, Replace
from mlx_patch.interventions.sources import ActivationSource
from mlx_patch.model import HookedModel, require_hooked
from mlx_patch.positions import Alignment
from mlx_patch.results import SweepResult
from mlx_patch.sites import SITES, Site
from mlx_patch.sweeps import CrossChoices, sweep
from mlx_patch.tokens import Batch, batches_of, tokens_of

Donor = HookedModel | ActivationCache | str | os.PathLike[str]
"""A model, its activations, or a file of them."""


def capture(
    donor: HookedModel, tokens: Any, path: str | os.PathLike[str], sites: Any = ("resid_post",), pos: Any = None
) -> Path:
    """Run a donor and save its activations to a file, for a later `cross_patch` without the donor in memory.

    Args:
        donor: The model.
        tokens: A prompt, or a batch of one length: token ids, a text or chat messages.
        path: A file that ends in `.safetensors`. Written whole or not at all.
        sites: As of `HookedModel.run_with_cache`.
        pos: Likewise.
    Returns:
        The path.
    Raises:
        FileError: It cannot be written.
        PatchError: As `HookedModel.run_with_cache`.
    """
    require_hooked("donor", donor)
    ids = tokens_of(tokens, donor.tokenizer, donor.d_vocab)
    donor.run_with_cache(ids, sites=sites, pos=pos, logits_at=-1)[1].save(path)
    return Path(path)


def cross_patch(
    target: HookedModel,
    donor: Donor | Sequence[ActivationCache],
    tokens: Any,
    at: str | Sequence[str] = "resid_post",
    over: Any = ("layer",),
    metric: object = None,
    *,
    donor_tokens: Any = None,
    alignment: Alignment | Sequence[Alignment] | None = None,
    layer_map: LayerMap | None = None,
    linear_map: LinearMap | Mapping[int, LinearMap] | None = None,
    file: str | os.PathLike[str] | None = None,
    alpha: float = 1.0,
    **choices: Unpack[CrossChoices],
) -> SweepResult:
    """Put the activations of one model into another, one layer after another, and measure each time.

    Args:
        target: The model that is patched.
        donor: The model that activations come from, its cache, or a file of one (`mp.cross.capture_from`), so that two
            models that do not fit into memory together can be patched one after the other; or a list of caches, one a
            prompt, as `donor.run_each_with_cache` returns them.
        tokens: The target's prompts, as of `sweep`: token ids, a text, chat messages, or a list of such.
        at: A site, or several where `over` has "site".
        over: As of `sweep`.
        metric: As of `sweep`.
        donor_tokens: The donor's prompts if they differ, as many; they need `alignment` if a length differs.
        alignment: `mp.align(donor_prompt, prompt)`: which position of the donor's prompt stands for which; of several
            prompts a list of them.
        layer_map: Which layer of the donor is put in at which of the target; None where they have equally many.
        linear_map: From the donor's coordinates to the target's, one for all layers or by target layer; `fit_maps`
            learns them.
        file: Where the donor's activations are kept and read from meanwhile; None keeps them in memory.
        alpha: How far to go to the donor's: 1 is all the way.
        choices: More for `sweep`: `layers`, `positions`, `heads`, `executor`, `checkpoint` ...
    Returns:
        A sweep's result, whose provenance names the donor, the maps, and the dtypes that were cast.
    Raises:
        ValueRefusedError: The two models do not fit, and no map says how; the message names the remedy.
        PatchError: As `sweep`.
    Source:
        Prakash et al. 2024, https://arxiv.org/abs/2402.14811 (CMAP), for patching activations across models.
    """
    require_hooked("target", target)
    sites = _sites(at)
    alpha = arguments.number("alpha", alpha)
    if layer_map is not None:
        arguments.instance("layer_map", layer_map, LayerMap, "Write mp.LayerMap.proportional(...), say.")
    _refuse_no_maps(linear_map)
    _refuse_one_map(sites, linear_map)
    targets = batches_of(tokens, target.tokenizer, target.d_vocab)
    alignments = _alignments(alignment, _count(targets))
    request = _DonorRequest(target, sites, targets, donor_tokens, alignments, layer_map, linear_map is not None)
    sources = _sources(donor, request, file)
    _refuse_other_number(sources, alignments, _count(targets))
    donor_provenance = _donor_provenance(target, sources, layer_map, linear_map, alignments)
    if layer_map is not None:
        choices.setdefault("layers", list(layer_map.targets))
    interventions = []
    for source, source_alignment in zip(sources, alignments or [None] * len(sources), strict=True):
        view = _view_for_target(target, source, sites, layer_map, linear_map, choices)
        if alpha == 1.0:
            interventions.append(Replace(view, source_alignment))
        else:
            interventions.append(Interpolate(view, alpha, source_alignment))
    # A list stands for several prompts, or several sites: one alone goes in by itself.
    intervention, site = interventions, list(sites)
    if len(interventions) == 1:
        intervention = interventions[0]
    if len(sites) == 1:
        site = sites[0]
    result = sweep(target, tokens, intervention, site, over, metric, **choices)
    return replace(result, provenance={**result.provenance, "donor": donor_provenance})


@dataclass(frozen=True, eq=False)
class _DonorRequest:
    """The activations that a target needs of a donor.

    Attributes:
        target: The model that is patched.
        sites: Where it is patched.
        targets: Its prompts, in groups of equal length.
        donor_tokens: The donor's prompts; None if they are the same.
        alignments: One per prompt; none if positions are the same.
        layer_map: The donor's layer for each of the target's.
        has_linear_map: Whether a linear map allows another width.
    """

    target: HookedModel
    sites: tuple[str, ...]
    targets: tuple[Batch, ...]
    donor_tokens: Any
    alignments: list[Alignment]
    layer_map: LayerMap | None
    has_linear_map: bool


def _sites(at: object) -> tuple[str, ...]:
    sites = at
    if isinstance(at, str):
        sites = (at,)
    if not isinstance(sites, list | tuple) or not sites:
        raise KindError(
            f"`at` must be a site that layers have, or several. Got {shown(at)}. Write at='resid_post', say."
        )
    for site in sites:
        if not isinstance(site, str) or site not in SITES or not SITES[site].layered:
            raise KindError(f"`at` must be a site that layers have. Got {shown(site)}. Write at='resid_post', say.")
    return tuple(sites)


def _refuse_one_map(sites: tuple[str, ...], linear_map: object) -> None:
    if linear_map is not None and len(sites) > 1:
        raise ValueRefusedError(
            f"`linear_map` must be None for several sites, because a map is learnt at one site. Got {listed(sites)}. "
            "Call `cross_patch` for each site with its own maps."
        )


def _count(batches: Sequence[Batch]) -> int:
    return sum(len(batch.examples) for batch in batches)


def _alignments(alignment: Alignment | Sequence[Alignment] | None, n: int) -> list[Alignment]:
    """An alignment for each prompt; an empty list for None.

    Raises:
        ValueRefusedError: There are not as many as prompts.
    """
    if alignment is None:
        return []
    if isinstance(alignment, Alignment):
        alignment = [alignment]
    alignments = list(arguments.entries("alignment", alignment, "an Alignment, or one for each prompt"))
    for member in alignments:
        arguments.instance("alignment", member, Alignment, "Use `mp.align`.")
    if len(alignments) != n:
        raise ValueRefusedError(
            f"`alignment` must hold one alignment per prompt, {n}. Got {len(alignments)}. Pass a list: "
            "[mp.align(theirs, ours) for theirs, ours in zip(donor_tokens, tokens)]."
        )
    return alignments


def _sources(
    donor: Donor | Sequence[ActivationCache], request: _DonorRequest, file: str | os.PathLike[str] | None
) -> list[ActivationCache]:
    """The donor's activations: one run for prompts of one length, or a run for each prompt."""
    if isinstance(donor, list | tuple) and all(isinstance(cache, ActivationCache) for cache in donor):
        return list(donor)
    if isinstance(donor, ActivationCache):
        return [donor]
    if isinstance(donor, str | os.PathLike):
        return [ActivationCache.load(donor)]
    require_hooked("donor", donor, ", an ActivationCache, a list of them, or a file")
    assert isinstance(donor, HookedModel)
    _refuse_misfit(donor, request)
    prompts = request.targets
    if request.donor_tokens is not None:
        prompts = batches_of(request.donor_tokens, donor.tokenizer, donor.d_vocab)
    _refuse_other_lengths(request, prompts)
    sites = _donor_sites(request)
    if len(request.targets) == len(prompts) == 1 and len(request.alignments) <= 1:
        tokens = prompts[0].tokens
        if file is not None:
            return [ActivationCache.load(capture(donor, tokens, file, sites))]
        return [donor.run_with_cache(tokens, sites=sites, logits_at=-1)[1]]
    if file is not None:
        raise ValueRefusedError(
            f"`file` must be None for several prompts of several lengths. Got {os.fspath(file)!r}, which can hold one "
            "run. Leave it out, or patch each prompt separately."
        )
    return donor.run_each_with_cache(_one_by_one(prompts), sites=sites, logits_at=-1)[1]


def _refuse_other_number(sources: Sequence[ActivationCache], alignments: Sequence[Alignment], n: int) -> None:
    """Refuse other than one cache per prompt, and several alignments for one shared cache."""
    if len(sources) not in (1, n):
        raise ValueRefusedError(f"`donor` must hold a cache for each of {n} prompts. Got {len(sources)}. Capture each.")
    if alignments and len(alignments) != len(sources):
        raise ValueRefusedError(
            f"`donor` must hold a cache for each of {n} prompts if each has its own alignment. Got one cache for all. "
            "Pass what `donor.run_each_with_cache(prompts)` returns."
        )


def _refuse_no_maps(linear_map: Any) -> None:
    """Refuse what is neither a map, nor one for each layer."""
    if linear_map is None or isinstance(linear_map, LinearMap):
        return
    maps = arguments.mapping("linear_map", linear_map, "a LinearMap, or a mapping of layers to them")
    for layer, member in maps.items():
        arguments.whole_number("linear_map", layer, 0)
        arguments.instance("linear_map", member, LinearMap)


def _refuse_misfit(donor: HookedModel, request: _DonorRequest) -> None:
    """Refuse a donor that does not fit, unless a map bridges the difference."""
    solved = {
        "layers": request.layer_map is not None,
        "width": request.has_linear_map,
        "tokens": request.donor_tokens is not None,
    }
    compatibility(request.target, donor).require(solved)
    if request.layer_map is not None:
        request.layer_map.require(request.target.n_layers, donor.n_layers)


def _refuse_other_lengths(request: _DonorRequest, prompts: Sequence[Batch]) -> None:
    """Refuse a different number of prompts or, without alignments, different lengths."""
    target_lengths, donor_lengths = _lengths(request.targets), _lengths(prompts)
    n = len(target_lengths)
    if len(donor_lengths) != n:
        raise ShapeError(
            f"`donor_tokens` must hold as many prompts as `tokens`, {n}. Got {len(donor_lengths)}. Give one for each."
        )
    if request.alignments:
        return
    for number, (length, donor_length) in enumerate(zip(target_lengths, donor_lengths, strict=True)):
        if length == donor_length:
            continue
        place = ""
        if n > 1:
            place = f" in prompt {number}"
        raise ShapeError(
            f"`donor_tokens` must have the {length} positions of `tokens`. Got {donor_length}{place}. "
            "Give alignment=mp.align(donor_tokens, tokens)."
        )


def _lengths(batches: Sequence[Batch]) -> list[int]:
    """The length of each prompt, in order."""
    by_example = {example: batch.length for batch in batches for example in batch.examples}
    return [by_example[example] for example in sorted(by_example)]


def _one_by_one(batches: Sequence[Batch]) -> list[mx.array]:
    """The prompts in order, each of shape `(1, pos)`."""
    rows = {}
    for batch in batches:
        for n, example in enumerate(batch.examples):
            rows[example] = batch.tokens[n : n + 1]
    return [rows[example] for example in sorted(rows)]


def _donor_sites(request: _DonorRequest) -> list[str | Site]:
    if request.layer_map is None:
        return list(request.sites)
    layers = sorted({layer for _, layer in request.layer_map.pairs})
    return [Site(site, layer) for site in request.sites for layer in layers]


def _view_for_target(
    target: HookedModel,
    source: ActivationCache,
    sites: Sequence[str],
    layer_map: LayerMap | None,
    linear_map: LinearMap | Mapping[int, LinearMap] | None,
    choices: Mapping[str, Any],
) -> ActivationSource:
    """A donor's activations in the target's layers and coordinates."""
    view: ActivationSource = source
    if layer_map is not None:
        view = FromLayers(view, layer_map)
    else:
        for site in sites:
            _refuse_more_layers(target, source, site)
    if linear_map is not None:
        view = Mapped(view, linear_map)
    for site in sites:
        _refuse_other_width(target, view, site, choices)
    return view


def _donor_provenance(
    target: HookedModel,
    sources: Sequence[ActivationCache],
    layer_map: LayerMap | None,
    linear_map: LinearMap | Mapping[int, LinearMap] | None,
    alignments: Sequence[Alignment],
) -> dict[str, Any]:
    """The origin of the activations, as JSON values."""
    tokens = []
    for source in sources:
        tokens += cast("list[list[int]]", source.tokens.tolist())
    dtypes = {_dtype_name(array) for source in sources for array in source.values()}
    layer_pairs = None
    if layer_map is not None:
        layer_pairs = [list(pair) for pair in layer_map.pairs]
    return {
        "model": dict(sources[0].model),
        "tokens": tokens,
        "dtypes": sorted(dtypes),
        "cast_to": sorted({_stream_dtype(target)} - dtypes),
        "layer_map": layer_pairs,
        "linear_map": _linear_map_provenance(linear_map),
        "alignment": _alignment_provenance(alignments),
    }


def _linear_map_provenance(linear_map: LinearMap | Mapping[int, LinearMap] | None) -> dict[str, Any]:
    if linear_map is None:
        return {}
    if isinstance(linear_map, LinearMap):
        return {"all": {"held_out_r2": linear_map.r2, "rows": linear_map.rows}}
    return {str(layer): {"held_out_r2": fit.r2, "rows": fit.rows} for layer, fit in linear_map.items()}


def _alignment_provenance(alignments: Sequence[Alignment]) -> list[Any] | None:
    """The pairs of positions of the one alignment, or of each; None if there are none."""
    pairs: list[Any] = [[list(pair) for pair in alignment.pairs] for alignment in alignments]
    if len(pairs) == 1:
        pairs = pairs[0]
    return pairs or None


def _stream_dtype(target: HookedModel) -> str:
    """The dtype of the target's stream, from a run of one token."""
    token = mx.zeros((1, 1), mx.int32)
    cache = target.run_with_cache(token, sites=("embed",), logits_at=-1)[1]
    return _dtype_name(cache["embed"])


def _dtype_name(array: mx.array) -> str:
    return str(array.dtype).removeprefix("mlx.core.")


def _refuse_more_layers(target: HookedModel, source: ActivationCache, site: str) -> None:
    """Refuse a cache or file from a deeper donor, which `compatibility` cannot check."""
    layers = [key.layer for key in source if key.name == site and key.layer is not None]
    deepest = max(layers, default=-1)
    if deepest >= target.n_layers:
        raise ValueRefusedError(
            f"`donor` must have the target's {target.n_layers} layers. Got layer {deepest}. "
            "Give layer_map=mp.LayerMap.proportional(target.n_layers, donor.n_layers)."
        )


def _refuse_other_width(target: HookedModel, view: ActivationSource, site: str, choices: Mapping[str, Any]) -> None:
    """Refuse a cache or file whose stream has another width, which `compatibility` cannot check."""
    if SITES[site].axes[-1] != "d_model":
        return
    layers = choices.get("layers")
    if layers is None:
        layers = range(target.n_layers)
    elif not isinstance(layers, list | tuple | range):
        layers = [layers]
    keys = (Site(site, layer) for layer in layers if isinstance(layer, int) and layer >= 0)
    key = next((key for key in keys if key in view), None)
    if key is None:
        return
    width = view[key].shape[-1]
    if width != target.d_model:
        raise ShapeError(
            f"`donor` must have the target's stream width, {target.d_model}. Got {width}. Give "
            "linear_map=mp.cross.fit_maps(target, donor, prompts)."
        )
