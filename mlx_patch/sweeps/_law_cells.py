"""The cells with which law 8 is checked: one position or several, at every site, alone and two to a cell."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TypeVar

import mlx.core as mx
import mlx.nn as nn

from mlx_patch.errors import PatchError
from mlx_patch.interventions import Ablate, Apply, Edit, Intervention, Replace, Scale, pos_axis
from mlx_patch.laws import Bench, by_key
from mlx_patch.sites import SITES, Site

_SITES = ("resid_post", "attn_out", "mixer_out", "mlp_out", "z")
"""Where to patch by layer, position and head; `mixer_out` in blocks whose mixer is no attention."""

_MANY = 16
"""Rows of a batch, of the prompt of the laws, in which experts sort their tokens."""

_LAYERS = 3
"""Layers that are patched at each site at most: the first, the last, and some between."""

_HEADS = 2
"""Heads that are patched in each layer at most."""

T = TypeVar("T")


@dataclass(frozen=True)
class LawCell:
    """One patched run.

    Attributes:
        name: The name of the site in findings.
        edits: What the run changes.
        entry: The first block that differs.
        pos: The position that is patched; None is all.
    """

    name: str
    edits: tuple[Edit, ...]
    entry: int
    pos: int | None


def by_layer(bench: Bench) -> Iterator[LawCell]:
    """Every position of a layer replaced, at the sites that sweeps are mostly made at."""
    for site in _patched_sites(bench):
        yield _replace(bench, site)


def by_position(bench: Bench) -> Iterator[LawCell]:
    """One position of a layer replaced: an early one and the last one in turn."""
    positions = bench.middle // 2, bench.tokens.shape[1] - 1
    for site, pos in zip(_patched_sites(bench), cycle(positions), strict=False):
        yield _replace(bench, site, pos=pos)


def by_head(bench: Bench) -> Iterator[LawCell]:
    """One head replaced, at the last position."""
    last = bench.tokens.shape[1] - 1
    for site in _patched_sites(bench):
        if "head" in site.axes:
            n_heads = bench.donor[1][site].shape[site.axes.index("head")]
            for head in spread_evenly(range(n_heads), _HEADS):
                yield _replace(bench, site, pos=last, head=head)


def everywhere(bench: Bench) -> Iterator[LawCell]:
    """At every named site what reads several positions or keys, alone or behind an edit; and one position alone."""
    early_edit = Scale(1.3).at("resid_post", layer=0, pos=bench.middle // 2)
    for name in bench.names:
        is_layered = SITES[name].layered
        if is_layered:
            sites = [Site(name, layer) for layer in spread_evenly(bench.captured_run[1].layers(name), 2)]
        else:
            sites = [Site(name)]
        yield _cell(sites[0], early_edit, _reading_edit(bench, sites[0]))
        if name in (*_SITES, "attn_scores", "pattern") or not is_layered:
            yield _cell(sites[-1], _reading_edit(bench, sites[-1]))
        if name not in _SITES:
            yield _cell(sites[-1], _position_edit(bench, sites[-1]))


def at_raw_paths(bench: Bench) -> Iterator[LawCell]:
    """What reads several positions at raw paths that a plain run can edit, behind another edit.

    And beside them the named site of one of these paths, whose edit is carried to the skip connection too: that of the
    path in another cell is not.
    """
    early_edit = Scale(1.3).at("resid_post", layer=0, pos=bench.middle // 2)
    if bench.has("resid_mid"):
        first_layer = bench.captured_run[1].layers("resid_mid")[0]
        yield _cell(Site("resid_mid", first_layer), Scale(0.5).at("resid_mid"))
    for site in _raw_sites(bench):
        if _can_be_edited(bench, site):
            yield _cell(site, early_edit, _reading_edit(bench, site))


def behind_the_last_block(bench: Bench) -> Iterator[LawCell]:
    """What reads several positions of what the unembedding reads, or of what the norm before it does.

    In a sweep of their own: with edits inside the last block beside them, all of its positions would be computed.
    """
    sites = [bench.end]
    path = bench.model.layout.family.final_norm
    if path:
        sites += [Site(f"{path}:input"), Site(f"{path}:output")]
    for site in sites:
        if site.is_raw and not _can_be_edited(bench, site):
            continue
        layer = None if site.is_raw else site.layer
        for intervention in (Ablate("mean"), Apply(_summed, name="summed")):
            edit = intervention.at(site.name, layer=layer)
            yield _cell(site, Scale(1.3).at("resid_post", layer=0), edit)


def spread_evenly(items: Sequence[T], limit: int) -> list[T]:
    """The first item, the last, and items between at equal distances: `limit` in all, or all there are."""
    n_chosen = min(len(items), limit)
    n_steps = max(1, n_chosen - 1)
    return [items[step * (len(items) - 1) // n_steps] for step in range(n_chosen)]


def _cell(site: Site, *edits: Edit) -> LawCell:
    name = "raw paths" if site.is_raw else site.name
    return LawCell(name, edits, 0, None)


def _position_edit(bench: Bench, site: Site) -> Edit:
    """An edit of one position."""
    position = bench.middle // 2
    if site.is_raw:
        return Scale(0.5).at(site.name, pos=position)
    return Replace(bench.donor[1]).at(site.name, layer=site.layer, pos=position)


def _reading_edit(bench: Bench, site: Site) -> Edit:
    """An edit that reads all keys, at the last query alone; elsewhere one that reads several positions."""
    last = bench.tokens.shape[1] - 1
    if site.axes[-1:] == ("key_pos",):
        return Apply(by_key, name="by key").at(site.name, layer=site.layer, pos=last)
    running_sum = Apply(_summed, name="summed")
    if site.is_raw:
        return running_sum.at(site.name)
    interventions: tuple[Intervention, ...] = (Ablate("mean"), Ablate("noise"), running_sum)
    turn = list(SITES).index(site.name) + (site.layer or 0)  # sites and layers take turns
    return interventions[turn % len(interventions)].at(site.name, layer=site.layer)


def _summed(activation: mx.array, site: Site) -> mx.array:
    return 0.5 * mx.cumsum(activation, axis=pos_axis(site))


def _raw_sites(bench: Bench) -> Iterator[Site]:
    """Raw paths of an embedding, of the first leaf of the first and of the last block, and of where `resid_mid` is."""
    layout = bench.model.layout
    modules = dict(bench.model.model.named_modules())
    embeddings = [path for path, module in modules.items() if isinstance(module, nn.Embedding)]
    if embeddings:
        yield Site(f"{embeddings[0]}:output")
    for layer in (0, bench.model.n_layers - 1):
        prefix = f"{layout.block_path(layer)}."
        leaves = [path for path, module in modules.items() if path.startswith(prefix) and "weight" in module]
        if leaves:
            yield Site(f"{leaves[0]}:input")
            yield Site(f"{leaves[0]}:output")
        point = layout.points[layer].get("resid_mid")
        if point and point.path and point.side == "input":
            yield Site(f"{prefix}{point.path}:input")


def _can_be_edited(bench: Bench, site: Site) -> bool:
    """Whether a plain run can edit a site position by position: it runs once, and holds the rows of any batch.

    Experts sort their tokens once there are many, and then hold them without rows: so a larger batch is tried too.
    """
    many_rows = mx.tile(bench.tokens, (_MANY, 1))
    try:
        bench.run(_position_edit(bench, site), _reading_edit(bench, site))
        shapes = [bench.model.run_with_cache(ids, site)[1][site].shape for ids in (bench.tokens, many_rows)]
    except PatchError:
        return False
    return all(shape[0] == ids.shape[0] for shape, ids in zip(shapes, (bench.tokens, many_rows), strict=True))


def _patched_sites(bench: Bench) -> Iterator[Site]:
    """The sites that are patched by layer, position and head."""
    donor = bench.donor[1]
    for name in filter(bench.has, _SITES):
        layers = donor.layers(name)
        if name == "mixer_out" and bench.has("attn_out"):
            layers = tuple(layer for layer in layers if layer not in donor.layers("attn_out"))
        for layer in spread_evenly(layers, _LAYERS):
            yield Site(name, layer)


def _replace(bench: Bench, site: Site, pos: int | None = None, head: int | None = None) -> LawCell:
    """A cell that replaces a site by the donor's activation."""
    layer = site.layer or 0
    edit = Replace(bench.donor[1]).at(site.name, layer=layer, pos=pos, head=head)
    entry = layer
    if site.name == "resid_post":  # the block itself is as in the unpatched run
        entry = layer + 1
    return LawCell(site.name, (edit,), entry, pos)
