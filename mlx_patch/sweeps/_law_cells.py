"""The cells with which law 8 is checked: one position or several, at every site, alone and two to a cell."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import mlx.core as mx
import mlx.nn as nn

from mlx_patch.errors import PatchError
from mlx_patch.interventions import Ablate, Apply, Edit, Intervention, Replace, Scale, pos_axis
from mlx_patch.laws import Bench, by_key
from mlx_patch.sites import SITES, Site

_SITES = ("resid_post", "attn_out", "mixer_out", "mlp_out", "z")
"""Where to patch by layer, position and head; `mixer_out` in blocks whose mixer is no attention."""

_LAYERS = 5
"""Layers that are patched at each site at most: the first, the last, and some between."""

_HEADS = 3
"""Heads that are patched in each layer at most."""

T = TypeVar("T")


@dataclass(frozen=True)
class LawCell:
    """One patched run.

    Attributes:
        name: Of the site, in findings.
        edits: What is done.
        entry: From which block on it differs.
        pos: At which position; None is all.
    """

    name: str
    edits: tuple[Edit, ...]
    entry: int
    pos: int | None


def by_layer(bench: Bench) -> Iterator[LawCell]:
    """Every position of a layer replaced, at the sites that sweeps are mostly made at."""
    for site in _places(bench):
        yield _replaced(bench, site)


def by_position(bench: Bench) -> Iterator[LawCell]:
    """One position of a layer replaced: an early one and the last one in turn."""
    positions = bench.middle // 2, bench.tokens.shape[1] - 1
    for n, site in enumerate(_places(bench)):
        yield _replaced(bench, site, pos=positions[n % 2])


def by_head(bench: Bench) -> Iterator[LawCell]:
    """One head replaced, at the last position."""
    last = bench.tokens.shape[1] - 1
    for site in _places(bench):
        if "head" in site.axes:
            heads = bench.donor[1][site].shape[site.axes.index("head")]
            yield from (_replaced(bench, site, pos=last, head=head) for head in spread_evenly(range(heads), _HEADS))


def everywhere(bench: Bench) -> Iterator[LawCell]:
    """At every named site what reads several positions or keys, alone or behind an edit; and one position alone."""
    early = Scale(1.3).at("resid_post", layer=0, pos=bench.middle // 2)
    for name in bench.names:
        sites = (
            [Site(name, n) for n in spread_evenly(bench.own[1].layers(name), 2)]
            if SITES[name].layered
            else [Site(name)]
        )
        yield _cell(sites[0], early, _reading_several(bench, sites[0]))
        if name in (*_SITES, "attn_scores", "pattern") or not SITES[name].layered:
            yield _cell(sites[-1], _reading_several(bench, sites[-1]))
        if name not in _SITES:
            yield _cell(sites[-1], _at_one_position(bench, sites[-1]))


def at_raw_paths(bench: Bench) -> Iterator[LawCell]:
    """What reads several positions at raw paths that a plain run can edit, behind another edit.

    And beside them the named site of one of these paths, whose edit is carried to the skip connection too: that of the
    path in another cell is not.
    """
    early = Scale(1.3).at("resid_post", layer=0, pos=bench.middle // 2)
    if bench.has("resid_mid"):
        yield _cell(Site("resid_mid", bench.own[1].layers("resid_mid")[0]), Scale(0.5).at("resid_mid"))
    for site in _raw_sites(bench):
        if _can_be_edited(bench, site):
            yield _cell(site, early, _reading_several(bench, site))


def behind_the_last_block(bench: Bench) -> Iterator[LawCell]:
    """What reads several positions of what the unembedding reads, or of what the norm before it does.

    In a sweep of their own: with edits inside the last block beside them, all of its positions would be computed.
    """
    path = bench.model.layout.family.final_norm
    sites = [bench.end, *(Site(f"{path}:{side}") for side in ("input", "output") if path)]
    for site in sites:
        if not site.is_raw or _can_be_edited(bench, site):
            layer = None if site.is_raw else site.layer
            for several in (Ablate("mean"), Apply(_summed, name="summed")):
                yield _cell(site, Scale(1.3).at("resid_post", layer=0), several.at(site.name, layer=layer))


def spread_evenly(every: Sequence[T], most: int) -> list[T]:
    """The first, the last, and as many between as there may be."""
    steps = min(len(every), most)
    return [every[i * (len(every) - 1) // max(1, steps - 1)] for i in range(steps)]


def _cell(site: Site, *edits: Edit) -> LawCell:
    return LawCell("raw paths" if site.is_raw else site.name, edits, 0, None)


def _at_one_position(bench: Bench, site: Site) -> Edit:
    position = bench.middle // 2
    if site.is_raw:
        return Scale(0.5).at(site.name, pos=position)
    return Replace(bench.donor[1]).at(site.name, layer=site.layer, pos=position)


def _reading_several(bench: Bench, site: Site) -> Edit:
    """What reads all keys, at the last query alone; elsewhere a mean or noise, of all positions, or a running sum."""
    last = bench.tokens.shape[1] - 1
    if site.axes[-1:] == ("key_pos",):
        return Apply(by_key, name="by key").at(site.name, layer=site.layer, pos=last)
    several: tuple[Intervention, ...] = (Ablate("mean"), Ablate("noise"), Apply(_summed, name="summed"))
    if site.is_raw:
        return several[2].at(site.name)
    turn = (list(SITES).index(site.name) + (site.layer or 0)) % len(several)
    return several[turn].at(site.name, layer=site.layer)


def _summed(activation: mx.array, site: Site) -> mx.array:
    return 0.5 * mx.cumsum(activation, axis=pos_axis(site))


def _raw_sites(bench: Bench) -> Iterator[Site]:
    """Raw paths of an embedding, of the first leaf of the first and of the last block, and of where `resid_mid` is."""
    layout, modules = bench.model.layout, dict(bench.model.model.named_modules())
    embeddings = [path for path, module in modules.items() if isinstance(module, nn.Embedding)]
    yield from (Site(f"{path}:output") for path in embeddings[:1])
    for layer in (0, bench.model.n_layers - 1):
        inside = f"{layout.block_path(layer)}."
        leaves = [path for path, module in modules.items() if path.startswith(inside) and "weight" in module]
        yield from (Site(f"{path}:{side}") for path in leaves[:1] for side in ("input", "output"))
        if (point := layout.points[layer].get("resid_mid")) and point.path and point.side == "input":
            yield Site(f"{inside}{point.path}:input")


def _can_be_edited(bench: Bench, site: Site) -> bool:
    """Whether a plain run can edit it position by position: it runs once, and holds the rows of the batch."""
    try:
        activation = bench.model.run_with_cache(bench.tokens, sites=site)[1][site]
        bench.run(_at_one_position(bench, site), _reading_several(bench, site))
    except PatchError:
        return False
    return activation.shape[:1] == bench.tokens.shape[:1]


def _places(bench: Bench) -> Iterator[Site]:
    donor = bench.donor[1]
    for name in filter(bench.has, _SITES):
        layers = donor.layers(name)
        if name == "mixer_out" and bench.has("attn_out"):
            layers = tuple(layer for layer in layers if layer not in donor.layers("attn_out"))
        yield from (Site(name, layer) for layer in spread_evenly(layers, _LAYERS))


def _replaced(bench: Bench, site: Site, pos: int | None = None, head: int | None = None) -> LawCell:
    layer = site.layer or 0
    edit = Replace(bench.donor[1]).at(site.name, layer=layer, pos=pos, head=head)
    return LawCell(site.name, (edit,), layer + (site.name == "resid_post"), pos)
