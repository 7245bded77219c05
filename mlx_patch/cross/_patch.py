"""`cross_patch`: the activations of one model put into another, layer by layer."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import mlx.core as mx

from mlx_patch.cache import ActivationCache
from mlx_patch.cross._compatibility import compatibility
from mlx_patch.cross._layer_map import LayerMap
from mlx_patch.cross._linear_map import LinearMap
from mlx_patch.cross._views import FromLayers, Mapped
from mlx_patch.errors import KindError, ShapeError, ValueRefusedError, listed
from mlx_patch.interventions import Interpolate, Replace
from mlx_patch.interventions.sources import ActivationSource
from mlx_patch.model import HookedModel, require_hooked
from mlx_patch.positions import Alignment
from mlx_patch.results import SweepResult
from mlx_patch.sites import SITES, Site
from mlx_patch.sweeps import sweep
from mlx_patch.tokens import Batch, batches_of, tokens_of

Donor = HookedModel | ActivationCache | str | os.PathLike[str]
"""A model, its activations, or a file of them."""


def capture(
    donor: HookedModel, tokens: Any, path: str | os.PathLike[str], sites: Any = ("resid_post",), pos: Any = None
) -> Path:
    """Run a donor and keep its activations in a file, for `cross_patch` of another model once this one is gone.

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
    **choices: Any,
) -> SweepResult:
    """Put the activations of one model into another, one layer after another, and measure each time.

    Args:
        target: The model that is patched.
        donor: The model that activations come from, its cache, or a file of one (`mp.cross.capture`), so that two
            models that do not fit into memory together can be patched one after the other; or a list of caches, one a
            prompt, as `donor.run_each_with_cache` returns them.
        tokens: The target's prompts, as of `sweep`: token ids, a text, chat messages, or a list of such.
        at: A site, or several where `over` has "site".
        over: As of `sweep`.
        metric: As of `sweep`.
        donor_tokens: The donor's prompts, where they are others, as many; they want `alignment` if a length is another.
        alignment: `mp.align(donor_prompt, prompt)`: which position of the donor's prompt stands for which; of several
            prompts a list of them.
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
    require_hooked("target", target)
    sites = _sites(at)
    _refuse_one_map(sites, linear_map)
    targets = batches_of(tokens, target.tokenizer, target.d_vocab)
    alignments = _alignments(alignment, _count(targets))
    asked = _Asked(target, sites, targets, donor_tokens, alignments, layer_map, linear_map is not None)
    sources = _sources(donor, asked, file)
    _refuse_other_number(sources, alignments, _count(targets))
    about = _about(target, sources, layer_map, linear_map, alignments)
    if layer_map is not None:
        choices.setdefault("layers", list(layer_map.targets))
    interventions = []
    for source, its_alignment in zip(sources, alignments or (None,) * len(sources), strict=True):
        seen = _seen(target, source, sites, layer_map, linear_map, choices)
        interventions.append(Replace(seen, its_alignment) if alpha == 1.0 else Interpolate(seen, alpha, its_alignment))
    many = interventions if len(interventions) > 1 else interventions[0]
    result = sweep(target, tokens, many, sites[0] if len(sites) == 1 else list(sites), over, metric, **choices)
    return replace(result, provenance={**result.provenance, "donor": about})


@dataclass(frozen=True, eq=False)
class _Asked:
    """What is asked of the donor.

    Attributes:
        target: The model that is patched.
        sites: Where.
        targets: Its prompts, in groups of equal length.
        donor_tokens: The donor's, where they are others.
        alignments: One a prompt; none where positions are the same.
        layer_map: Which layers stand for each other.
        mapped: Whether a linear map is there for another width.
    """

    target: HookedModel
    sites: tuple[str, ...]
    targets: tuple[Batch, ...]
    donor_tokens: Any
    alignments: list[Alignment]
    layer_map: LayerMap | None
    mapped: bool


def _sites(at: object) -> tuple[str, ...]:
    sites = (at,) if isinstance(at, str) else at
    if not isinstance(sites, list | tuple) or not sites:
        raise KindError(f"`at` must be a site that layers have, or several. Got {at!r}. Write at='resid_post', say.")
    for site in sites:
        if not isinstance(site, str) or site not in SITES or not SITES[site].layered:
            raise KindError(f"`at` must be a site that layers have. Got {site!r}. Write at='resid_post', say.")
    return tuple(sites)


def _refuse_one_map(sites: tuple[str, ...], linear_map: object) -> None:
    if linear_map is not None and len(sites) > 1:
        raise ValueRefusedError(
            f"`linear_map` must be None for several sites, since a map is learnt at one. Got {listed(sites)}. "
            "Call `cross_patch` for each site with its own maps."
        )


def _count(batches: Sequence[Batch]) -> int:
    return sum(len(batch.examples) for batch in batches)


def _alignments(given: Alignment | Sequence[Alignment] | None, n: int) -> list[Alignment]:
    """An alignment for each prompt; none where none was given.

    Raises:
        ValueRefusedError: There are not as many as prompts.
    """
    if given is None:
        return []
    many = [given] if isinstance(given, Alignment) else list(given)
    if len(many) != n:
        raise ValueRefusedError(
            f"`alignment` must be one a prompt, {n}. Got {len(many)}. Give a list: "
            "[mp.align(theirs, ours) for theirs, ours in zip(donor_tokens, tokens)]."
        )
    return many


def _sources(
    donor: Donor | Sequence[ActivationCache], asked: _Asked, file: str | os.PathLike[str] | None
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
    _refuse_misfit(donor, asked)
    given = asked.donor_tokens
    prompts = asked.targets if given is None else batches_of(given, donor.tokenizer, donor.d_vocab)
    _refuse_other_lengths(asked, prompts)
    sites = _donor_sites(asked)
    if len(asked.targets) == len(prompts) == 1 and len(asked.alignments) <= 1:
        tokens = prompts[0].tokens
        if file is not None:
            return [ActivationCache.load(capture(donor, tokens, file, sites))]
        return [donor.run_with_cache(tokens, sites=sites, logits_at=-1)[1]]
    if file is not None:
        raise ValueRefusedError(
            f"`file` must be None for several prompts of several lengths. Got {os.fspath(file)!r}, which would "
            "hold one run. Leave it out, or patch each prompt by itself."
        )
    return donor.run_each_with_cache(_one_by_one(prompts), sites=sites, logits_at=-1)[1]


def _refuse_other_number(sources: Sequence[ActivationCache], alignments: Sequence[Alignment], n: int) -> None:
    """Refuse a list of caches that is not one a prompt, and alignments of prompts that one cache holds together."""
    if len(sources) not in (1, n):
        raise ValueRefusedError(f"`donor` must hold a cache for each of {n} prompts. Got {len(sources)}. Capture each.")
    if alignments and len(alignments) != len(sources):
        raise ValueRefusedError(
            f"`donor` must be a cache for each of {n} prompts where each has its alignment. Got one of all. "
            "Pass what `donor.run_each_with_cache(prompts)` returns."
        )


def _refuse_misfit(donor: HookedModel, asked: _Asked) -> None:
    """Refuse a donor that does not fit, and for which no map says how."""
    solved = {
        "layers": asked.layer_map is not None,
        "width": asked.mapped,
        "tokens": asked.donor_tokens is not None,
    }
    compatibility(asked.target, donor).require(solved)
    if asked.layer_map is not None:
        asked.layer_map.require(asked.target.n_layers, donor.n_layers)


def _refuse_other_lengths(asked: _Asked, prompts: Sequence[Batch]) -> None:
    ours, theirs = _lengths(asked.targets), _lengths(prompts)
    if len(ours) != len(theirs):
        raise ShapeError(
            f"`donor_tokens` must hold as many prompts as `tokens`, {len(ours)}. Got {len(theirs)}. Give one for each."
        )
    for number, (length, other) in enumerate(zip(ours, theirs, strict=True)):
        if length != other and not asked.alignments:
            which = f" in prompt {number}" if len(ours) > 1 else ""
            raise ShapeError(
                f"`donor_tokens` must have the {length} positions of `tokens`. Got {other}{which}. "
                "Give alignment=mp.align(donor_tokens, tokens)."
            )


def _lengths(batches: Sequence[Batch]) -> list[int]:
    """The length of each prompt, in order."""
    by_example = {example: batch.length for batch in batches for example in batch.examples}
    return [by_example[example] for example in sorted(by_example)]


def _one_by_one(batches: Sequence[Batch]) -> list[mx.array]:
    """The prompts in order, each of shape `(1, pos)`."""
    rows = {example: batch.tokens[n : n + 1] for batch in batches for n, example in enumerate(batch.examples)}
    return [rows[example] for example in sorted(rows)]


def _donor_sites(asked: _Asked) -> list[str | Site]:
    if asked.layer_map is None:
        return list(asked.sites)
    layers = sorted({layer for _, layer in asked.layer_map.pairs})
    return [Site(site, layer) for site in asked.sites for layer in layers]


def _seen(
    target: HookedModel,
    source: ActivationCache,
    sites: Sequence[str],
    layer_map: LayerMap | None,
    linear_map: LinearMap | Mapping[int, LinearMap] | None,
    choices: Mapping[str, Any],
) -> ActivationSource:
    """A donor's activations as the target's layers and coordinates have them."""
    seen: ActivationSource = source
    if layer_map is not None:
        seen = FromLayers(seen, layer_map)
    else:
        for site in sites:
            _refuse_more_layers(target, source, site)
    if linear_map is not None:
        seen = Mapped(seen, linear_map)
    for site in sites:
        _refuse_other_width(target, seen, site, choices)
    return seen


def _about(
    target: HookedModel,
    sources: Sequence[ActivationCache],
    layer_map: LayerMap | None,
    linear_map: LinearMap | Mapping[int, LinearMap] | None,
    alignments: Sequence[Alignment],
) -> dict[str, Any]:
    """Where the activations come from, as JSON."""
    maps = {"all": linear_map} if isinstance(linear_map, LinearMap) else dict(linear_map or {})
    dtypes = sorted({str(array.dtype).removeprefix("mlx.core.") for source in sources for array in source.values()})
    pairs = [[list(pair) for pair in alignment.pairs] for alignment in alignments]
    return {
        "model": dict(sources[0].model),
        "tokens": [row for source in sources for row in cast("list[list[int]]", source.tokens.tolist())],
        "dtypes": dtypes,
        "cast_to": sorted({str(dtype).removeprefix("mlx.core.") for dtype in _stream_dtypes(target)} - set(dtypes)),
        "layer_map": None if layer_map is None else [list(pair) for pair in layer_map.pairs],
        "linear_map": {str(layer): {"held_out_r2": one.r2, "rows": one.rows} for layer, one in maps.items()},
        "alignment": (pairs[0] if len(pairs) == 1 else pairs) or None,
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
