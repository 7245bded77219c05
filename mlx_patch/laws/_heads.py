"""Law 7: heads are independent, and an edit of a query, a key or a value reaches only its own head and position."""

from collections.abc import Iterator

import mlx.core as mx

from mlx_patch.cache import ActivationCache
from mlx_patch.interventions import Ablate
from mlx_patch.laws._bench import ZERO, Bench
from mlx_patch.laws._report import Finding
from mlx_patch.sites import Site

_OF_QUERIES = ("q", "rot_q")
_OF_KEYS = ("k", "rot_k")


def independent_heads(bench: Bench, layer: int) -> Iterator[Finding]:
    """Zeroing a head's pattern has the effect of zeroing its z, and leaves the other heads' z as it is.

    Two runs with a row for each head, at the same place in both: a BLAS may round other rows of a product otherwise.
    """
    n_heads = bench.captured_run[1]["z", layer].shape[2]
    plain = bench.inside(Site("z", layer), rows=n_heads)["z", layer]
    caches = {name: _without_each_head(bench, name, layer, n_heads) for name in ("z", "pattern")}
    for head in range(n_heads):
        by_z = caches["z"]["attn_out", layer][head]
        by_pattern = caches["pattern"]["attn_out", layer][head]
        description = f"head {head} of {Site('pattern', layer)}"
        yield bench.scale.finding(7, description, by_pattern, by_z, bench.exactly("pattern"))
        is_other_head = (mx.arange(n_heads) != head)[:, None]
        for name, cache in caches.items():
            z = cache["z", layer][head]
            masked = z * is_other_head.astype(z.dtype)
            expected = plain[head] * is_other_head.astype(plain.dtype)
            description = f"head {head} of {Site(name, layer)}, the others"
            yield bench.scale.finding(7, description, masked, expected, bench.scale.close)


def _without_each_head(bench: Bench, name: str, layer: int, n_heads: int) -> ActivationCache:
    """A run with a row for each head, in which that head's pattern or z is zero."""
    sites = (Site("z", layer), Site("attn_out", layer), Site("pattern", layer))
    edits = [ZERO.at(name, layer=layer, head=head, batch=head) for head in range(n_heads)]
    return bench.inside(sites, *edits, rows=n_heads)


def reach(bench: Bench, layer: int) -> Iterator[Finding]:
    """An edit of one head's query, key or value at one position reaches its own head or group, row or column alone.

    One run, with a row for each site and head.
    """
    unpatched = bench.captured_run[1]
    cases: list[tuple[str, int]] = []
    for name in (*_OF_QUERIES, *_OF_KEYS, "v"):
        if (name, layer) in unpatched:
            n_heads = unpatched[name, layer].shape[2]
            cases += [(name, head) for head in range(n_heads)]
    edits = []
    for row, (name, head) in enumerate(cases):
        edits.append(ZERO.at(name, layer=layer, head=head, pos=bench.middle, batch=row))
    sites = (Site("attn_scores", layer), Site("z", layer))
    plain = bench.inside(sites, rows=len(cases))
    edited = bench.inside(sites, *edits, rows=len(cases))
    for row, (name, head) in enumerate(cases):
        effect = "attn_scores"
        if name == "v":
            effect = "z"
        before = _without_masked(plain[effect, layer][row])
        after = _without_masked(edited[effect, layer][row])
        reachable = _reachable(bench, Site(name, layer), head, before.shape)
        description = f"head {head} of {Site(name, layer)} at one position"
        elsewhere = mx.where(reachable, before, after)
        yield bench.scale.finding(7, f"{description}, elsewhere in {effect}", elsewhere, before, bench.scale.close)
        changed = mx.any((before != after) & reachable).item()
        yield Finding(7, f"{description}, shows in {effect}", float(not changed), 0.0)


def _reachable(bench: Bench, site: Site, head: int, shape: tuple[int, ...]) -> mx.array:
    """Which scores or z an edit of a head at the middle position may change. Of the shape given."""
    cache = bench.captured_run[1]
    n_heads = cache[Site("z", site.layer)].shape[2]
    heads = read_by(bench, n_heads, cache[site].shape[2]) == head
    if bench.heads.mixed and site.name in ("q", "k"):
        heads = mx.ones_like(heads)
    return _may_change(site.name, shape, bench.middle, heads)


def read_by(bench: Bench, n_heads: int, n_kv_heads: int) -> mx.array:
    """For each query head the KV head that it reads. Shape `(head,)`."""
    heads = mx.arange(n_heads)
    if bench.heads.tiled:
        return heads % n_kv_heads
    return heads // (n_heads // n_kv_heads)


def _may_change(name: str, shape: tuple[int, ...], position: int, heads: mx.array) -> mx.array:
    """Which scores `(head, query_pos, key_pos)`, or which `z` `(pos, head, d_head)`, an edit of heads may change."""
    if name == "v":
        reads_position = mx.arange(shape[0]) >= position
        return mx.broadcast_to(reads_position[:, None, None] & heads[:, None], shape)
    if name in _OF_QUERIES:
        scores = (mx.arange(shape[1]) == position)[:, None]
    else:
        scores = mx.arange(shape[2]) == position
    return mx.broadcast_to(heads[:, None, None] & scores, shape)


def as_seen(bench: Bench, name: str) -> Iterator[Finding]:
    """With the same query at every position, a key's scores are all equal; with the same key, a query's scores are.

    So nothing after the site depends on positions: above all RoPE comes before.
    """
    cache = bench.inside("attn_scores", Ablate("mean").at(name))
    for layer in cache.layers("attn_scores"):
        scores = cache["attn_scores", layer]
        if name == "rot_q":
            reference = scores[..., -1:, :]
        else:
            reference = mx.diagonal(scores, axis1=-2, axis2=-1)[..., None]
        unmasked = (_without_masked(scores) != 0) & (_without_masked(reference) != 0)
        actual = mx.where(unmasked, scores, 0)
        expected = mx.where(unmasked, reference, 0)
        description = f"{Site(name, layer)} is what attention sees"
        yield bench.scale.finding(7, description, actual, expected, bench.scale.close)


def _without_masked(scores: mx.array) -> mx.array:
    """Scores with 0 where they are masked."""
    lowest = 0.9 * float(mx.finfo(scores.dtype).min)
    return mx.where(scores > lowest, scores, 0)
