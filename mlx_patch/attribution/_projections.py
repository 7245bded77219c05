"""Effects of edits of queries and keys, through the exact softmax of their layer."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_patch.attribution._attention import Attention, AttentionRuns
from mlx_patch.attribution._effects import sum_of_picked
from mlx_patch.attribution._softmax import LARGE, effect_of_each_key
from mlx_patch.execution.cells import EditsAtSite, together_at
from mlx_patch.interventions import Pick, Span
from mlx_patch.sites import Site

_QUERIES, _KEYS = ("q", "rot_q"), ("k", "rot_k")
PROJECTIONS = (*_QUERIES, *_KEYS)
"""The sites whose edits act through the softmax. Their axes are batch, pos, head, d_head."""

_POS, _HEAD = 1, 2
"""Two of these axes."""


@dataclass(frozen=True, eq=False)
class Change:
    """A new value of queries or keys, of which each of some cells makes a part.

    Attributes:
        site: The site.
        value: The new value. Shape `(batch, pos, head, d_head)`.
        members: The cells by number, each with the indices along each axis that it has of what this value does; None is
            all.
        by_key: Whether each cell changes the keys of one position alone. Otherwise each cell has some of the queries,
            or all cells change the keys of the same positions.
    """

    site: Site
    value: mx.array
    members: Sequence[tuple[int, tuple[Pick, ...]]]
    by_key: bool

    @property
    def of_keys(self) -> bool:
        """Whether these are keys."""
        return self.site.name in _KEYS


def changes_at(
    site: Site, members: Sequence[EditsAtSite], unpatched: mx.array, span: Span, heads_are_mixed: bool
) -> Iterator[Change]:
    """What cells make of queries or keys, in as few new values as give each cell what it does alone.

    Args:
        site: The site.
        members: What the cells do there.
        unpatched: The activation. Shape `(batch, pos, head, d_head)`.
        span: Its positions.
        heads_are_mixed: Whether a norm over all heads stands behind `q` and `k`.
    """
    for group in together_at(site, members):
        value = group.apply(unpatched, span)
        sharing: dict[tuple[tuple[Pick, ...], bool], list[tuple[int, tuple[Pick, ...]]]] = {}
        for member, picks in zip(group.members, group.picks(unpatched.shape, span), strict=True):
            region = _region_of(site, picks, heads_are_mixed)
            sharing.setdefault((region, _is_one_key(site, picks)), []).append((member.cell, _beside(region, picks)))
        for (region, by_key), cells in sharing.items():
            yield Change(site, _only(region, value, unpatched), cells, by_key)


def _region_of(site: Site, picks: tuple[Pick, ...], heads_are_mixed: bool) -> tuple[Pick, ...]:
    """The part of an activation that must be as in a cell for the cell to have its effect; None is any."""
    _, positions, heads, entries = picks
    if site.name in _QUERIES or _is_one_key(site, picks):
        positions = None
    if not (heads_are_mixed and site.name in ("q", "k")):
        heads = None
    return None, positions, heads, entries


def _beside(region: tuple[Pick, ...], picks: tuple[Pick, ...]) -> tuple[Pick, ...]:
    """The picks where the region is any. Elsewhere all: only the region changes, but what it does may lie outside."""
    inner_picks = list(picks)
    for axis, chosen in enumerate(region):
        if chosen is not None:
            inner_picks[axis] = None
    return tuple(inner_picks)


def _is_one_key(site: Site, picks: tuple[Pick, ...]) -> bool:
    positions = picks[_POS]
    return site.name in _KEYS and positions is not None and len(positions) == 1


def _only(region: tuple[Pick, ...], value: mx.array, unpatched: mx.array) -> mx.array:
    """The new value in a part of an activation, and the unpatched one elsewhere."""
    for axis, indices in enumerate(region):
        if indices is not None:
            is_chosen = np.zeros(unpatched.shape[axis], bool)
            is_chosen[list(indices)] = True
            shape = [1] * unpatched.ndim
            shape[axis] = -1
            value = mx.where(mx.array(is_chosen).reshape(shape), value, unpatched)
    return value


def add_effects(
    effects: np.ndarray, changes: Sequence[Change], runs: AttentionRuns, gradients: Mapping[int, mx.array]
) -> None:
    """Add the effects of changes to those of all cells.

    Args:
        effects: Of all cells. Shape `(cell, metric, batch)`.
        changes: The changes.
        runs: The runs of attention.
        gradients: Of each metric by the pattern, by layer. Shape `(metric, batch, head, query_pos, key_pos)`.
    """
    family = runs.prompt_run.layout.family
    softmaxes = {}
    for layer, gradient in gradients.items():
        softmaxes[layer] = _Softmax(runs.unpatched[layer], gradient, family.heads.tiled, runs.prompt_run.start)
    for at_once in _rounds(changes, bool(family.shared)):
        attention = runs.changed({change.site: change.value for change in at_once})
        reached = [(change, _layers_of(change, runs)) for change in at_once]
        largest = _largest_keys(reached, attention, runs)
        entries = []
        for change, layers in reached:
            by_layer = [softmaxes[layer].entries(change, attention[layer], largest.get(layer)) for layer in layers]
            entries.append(sum(by_layer[1:], by_layer[0]))
        mx.eval(entries)
        for change, array in zip(at_once, map(np.array, entries), strict=True):
            for cell, picks in change.members:
                effects[cell] += sum_of_picked(array, picks)


def _rounds(changes: Sequence[Change], shared: bool) -> Iterator[list[Change]]:
    """Changes that one run makes: one a layer, or one at all where keys of a layer are read in others."""
    by_layer: dict[int | None, deque[Change]] = {}
    for change in changes:
        layer = change.site.layer
        if shared:
            layer = None
        by_layer.setdefault(layer, deque()).append(change)
    while by_layer:
        yield [waiting.popleft() for waiting in by_layer.values()]
        by_layer = {layer: waiting for layer, waiting in by_layer.items() if waiting}


def _layers_of(change: Change, runs: AttentionRuns) -> Sequence[int]:
    """The layers whose attention a change reaches."""
    if runs.prompt_run.layout.family.shared:
        return runs.layers
    return (change.site.layer or 0,)


def _largest_keys(
    reached: Sequence[tuple[Change, Sequence[int]]], attention: Mapping[int, Attention], runs: AttentionRuns
) -> Mapping[int, Attention]:
    """The attention in which of each row only the key that has most of the weight is changed, if there is one."""
    scores = {}
    for layer in (layer for change, layers in reached if change.by_key for layer in layers):
        unpatched = runs.unpatched[layer]
        is_large = unpatched.pattern > LARGE
        scores[Site("attn_scores", layer)] = mx.where(is_large, attention[layer].scores, unpatched.scores)
    if not scores:
        return {}
    return runs.changed(scores)


@dataclass(frozen=True, eq=False)
class _Softmax:
    """The softmax of one layer.

    Attributes:
        unpatched: Scores and pattern of the unpatched run.
        gradient: Of each metric by the pattern. Shape `(metric, batch, head, query_pos, key_pos)`.
        tiled: Whether query head i reads KV head i modulo their number; otherwise neighbours share one.
        start: The first position of the run: the keys before it are from a prompt cache.
    """

    unpatched: Attention
    gradient: mx.array
    tiled: bool
    start: int

    def entries(self, change: Change, attention: Attention, largest: Attention | None) -> mx.array:
        """What each entry of a change contributes; axes along which cells are not told apart have length 1.

        Args:
            change: The change.
            attention: Under it.
            largest: Where of each row only the key with most of the weight is changed.
        Returns:
            Shape `(metric, batch, pos or 1, head, 1)`.
        """
        if not change.of_keys:
            by_query = self._effects(attention).sum(axis=-1)
            return by_query.swapaxes(-1, -2)[..., None]
        if not change.by_key or largest is None:
            by_head = self._effects(attention).sum(axis=(-1, -2))
            return self._by_kv_head(by_head[..., None], change)
        unpatched = self.unpatched
        exact = self._effects(largest).sum(axis=-1, keepdims=True)
        closed = effect_of_each_key(unpatched.scores, attention.scores, unpatched.pattern, self.gradient)
        by_key = mx.where(unpatched.pattern > LARGE, exact, closed).sum(axis=-2)
        end = self.start + change.value.shape[_POS]
        return self._by_kv_head(by_key[..., self.start : end], change)

    def _effects(self, attention: Attention) -> mx.array:
        """Gradient times change of the pattern, in float32. Shape `(metric, batch, head, query_pos, key_pos)`."""
        change = attention.pattern.astype(mx.float32) - self.unpatched.pattern.astype(mx.float32)
        return self.gradient.astype(mx.float32) * change

    def _by_kv_head(self, by_head: mx.array, change: Change) -> mx.array:
        """Sums over the query heads of each KV head: `(..., head, pos)` to `(..., pos, kv_head, 1)`."""
        *leading, _, length = by_head.shape
        n_kv_heads = change.value.shape[_HEAD]
        if self.tiled:
            summed = by_head.reshape(*leading, -1, n_kv_heads, length).sum(axis=-3)
        else:
            summed = by_head.reshape(*leading, n_kv_heads, -1, length).sum(axis=-2)
        return summed.swapaxes(-1, -2)[..., None]
