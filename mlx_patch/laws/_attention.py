"""Law 7: attention patterns are causal, sum to 1 and make z; heads are heads, queries ask and keys are asked."""

from collections.abc import Iterator

import mlx.core as mx

from mlx_patch.architectures import attribute
from mlx_patch.cache import ActivationCache
from mlx_patch.interventions import Ablate, Apply, Replace
from mlx_patch.laws._bench import ZERO, Bench
from mlx_patch.laws._report import Finding
from mlx_patch.sites import Site

_OF_QUERIES = ("q", "rot_q")
_OF_KEYS = ("k", "rot_k")


def heads(bench: Bench) -> Iterator[Finding]:
    """Law 7."""
    if not bench.has("attn_scores", "pattern", "z"):
        return
    layers = bench.layers("attn_scores", "pattern", "z")
    one = Bench(bench.model, bench.tokens[:1], bench.other[:1])
    by_key = _attending_to_each_key(one)
    for layer in layers:
        yield from _patterns(bench, layer)
        yield from _made(one, layer, by_key["z", layer].astype(mx.float32))
    yield from _through_pattern(bench, layers)
    yield from _heads_apart(one, layers[0])
    yield from _reach(one, layers[0])
    for name in ("rot_q", "rot_k"):
        if bench.has(name):
            yield from _as_seen(bench, name)


def _patterns(bench: Bench, layer: int) -> Iterator[Finding]:
    cache, where = bench.own[1], str(Site("pattern", layer))
    pattern = cache["pattern", layer].astype(mx.float32)
    future = mx.triu(mx.abs(pattern), 1)
    yield Finding(7, f"{where}, causal", float(mx.max(future)), 0.0)
    scores, sinks = cache["attn_scores", layer].astype(mx.float32), _sinks(bench, layer)
    if sinks is None:
        ones, close = mx.ones(pattern.shape[:-1]), bench.scale.close
        yield bench.scale.finding(7, f"{where}, rows sum to 1", pattern.sum(axis=-1), ones, close)
        softmax = mx.softmax(scores, axis=-1)
    else:
        column = mx.broadcast_to(sinks.astype(mx.float32)[:, None, None], (*scores.shape[:-1], 1))
        softmax = mx.softmax(mx.concatenate([column, scores], axis=-1), axis=-1)[..., 1:]
    yield bench.scale.finding(7, f"{where}, softmax of scores", softmax, pattern, bench.scale.close)


def _sinks(bench: Bench, layer: int) -> mx.array | None:
    """The scores that take part in a layer's softmax and attend to nothing. Shape `(head,)`."""
    path = bench.heads.sinks
    return attribute(bench.model.layout.blocks[layer], path) if path else None


def _attending_to_each_key(bench: Bench) -> ActivationCache:
    """`z` in a run with a row for each key, in which all queries attend to that key alone, in each layer by itself."""
    keys = bench.tokens.shape[1]
    alone = Apply(lambda pattern, site: mx.broadcast_to(mx.eye(keys)[:, None, None, :], pattern.shape))
    held = Apply(lambda stream, site: mx.broadcast_to(bench.own[1][site], stream.shape))
    return bench.inside("z", held.at("resid_pre"), alone.at("pattern"), rows=keys)


def _made(bench: Bench, layer: int, by_key: mx.array) -> Iterator[Finding]:
    """Each query's z is what the keys would give it one by one, weighed by its pattern; and v is what they give.

    Where z is gated, by query and not by key, v is what they give up to that gate, which is found at each query's own
    position.
    """
    cache, where, close = bench.own[1], str(Site("pattern", layer)), bench.scale.close
    pattern, z = (cache[name, layer][0].astype(mx.float32) for name in ("pattern", "z"))
    if bench.heads.normed:
        yield from _made_and_normed(bench, layer, by_key)
        return
    made = mx.sum(pattern.transpose(2, 1, 0)[..., None] * by_key, axis=0)
    yield bench.scale.finding(7, f"{where} makes z", made, z, close)
    if ("v", layer) in cache:
        values = cache["v", layer][0].astype(mx.float32)
        values = mx.take(values, _read_by(bench, z.shape[1], values.shape[1]), axis=1)
        own = mx.diagonal(by_key, axis1=0, axis2=1).transpose(2, 0, 1)
        if mx.array_equal(own, values).item():
            wanted = mx.broadcast_to(values[:, None], by_key.shape)
            yield bench.scale.finding(7, f"{where} and v make z", by_key, wanted, close)
        else:
            gated, wanted = by_key * values, own * values[:, None]
            yield bench.scale.finding(7, f"{where}, v and a gate make z", gated, wanted, close)


def _through_pattern(bench: Bench, layers: tuple[int, ...]) -> Iterator[Finding]:
    """Queries and keys act through the pattern alone: where it is held, others leave z as it is."""
    held = [Replace(bench.own[1]).at(name) for name in ("resid_pre", "pattern")]
    others = [Replace(bench.donor[1]).at(name) for name in ("q", "k") if bench.has(name)]
    cache = bench.inside("z", *held, *others)
    for layer in layers:
        what = f"{Site('z', layer)} with other q and k, and its pattern"
        yield bench.scale.finding(7, what, cache["z", layer], bench.own[1]["z", layer], bench.scale.close)


def _made_and_normed(bench: Bench, layer: int, by_key: mx.array) -> Iterator[Finding]:
    """Where what attention gathers is normed and gated: the gate of each query is found where it attends to itself."""
    pattern, values, z = (bench.own[1][name, layer][0].astype(mx.float32) for name in ("pattern", "v", "z"))
    values = mx.take(values, _read_by(bench, z.shape[1], values.shape[1]), axis=1)
    gathered = (pattern @ values.swapaxes(0, 1)).swapaxes(0, 1)
    own = mx.diagonal(by_key, axis1=0, axis2=1).transpose(2, 0, 1)
    got, wanted = z * mx.fast.rms_norm(values, None, 0.0), own * mx.fast.rms_norm(gathered, None, 0.0)
    what = f"{Site('pattern', layer)}, v, a norm and a gate make z"
    yield bench.scale.finding(7, what, got, wanted, bench.scale.close)


def _heads_apart(bench: Bench, layer: int) -> Iterator[Finding]:
    """A head without its pattern is a head without its z, in what attention adds; and the others keep theirs.

    One run: a row for each head without its z, then one for each without its pattern.
    """
    n_heads = bench.own[1]["z", layer].shape[2]
    cases = [(name, head) for name in ("z", "pattern") for head in range(n_heads)]
    edits = [ZERO.at(name, layer=layer, head=head, batch=row) for row, (name, head) in enumerate(cases)]
    plain = bench.inside(Site("z", layer), rows=len(cases))["z", layer]
    got = bench.inside((Site("z", layer), Site("attn_out", layer)), *edits, rows=len(cases))
    by_z, by_pattern = mx.split(got["attn_out", layer], 2)
    for head in range(n_heads):
        where, tolerance = f"head {head} of {Site('pattern', layer)}", bench.exactly("pattern") + bench.scale.close
        yield bench.scale.finding(7, where, by_pattern[head], by_z[head], tolerance)
    for row, (name, head) in enumerate(cases):
        others = mx.array([0 if h == head else 1 for h in range(n_heads)])[:, None]
        kept, wanted = got["z", layer][row] * others, plain[row] * others
        yield bench.scale.finding(7, f"head {head} of {Site(name, layer)}, the others", kept, wanted, bench.scale.close)


def _reach(bench: Bench, layer: int) -> Iterator[Finding]:
    """How far one head's query, key or value at one position reaches: its own head or group, its row or its column.

    One run: a row for each site and head.
    """
    own = bench.own[1]
    names = [name for name in (*_OF_QUERIES, *_OF_KEYS, "v") if (name, layer) in own]
    cases = [(name, head) for name in names for head in range(own[name, layer].shape[2])]
    edits = [ZERO.at(n, layer=layer, head=h, pos=bench.middle, batch=row) for row, (n, h) in enumerate(cases)]
    sites = (Site("attn_scores", layer), Site("z", layer))
    plain, got = (bench.inside(sites, *some, rows=len(cases)) for some in ((), edits))
    for row, (name, head) in enumerate(cases):
        seen = "z" if name == "v" else "attn_scores"
        before, after = (_shown(cache[seen, layer][row]) for cache in (plain, got))
        mine = _read_by(bench, own["z", layer].shape[2], own[name, layer].shape[2]) == head
        all_heads = bench.heads.mixed and name in ("q", "k")
        may = _may_change(name, before.shape, bench.middle, mine | all_heads)
        what = f"head {head} of {Site(name, layer)} at one position"
        kept = mx.where(may, before, after)
        yield bench.scale.finding(7, f"{what}, elsewhere in {seen}", kept, before, bench.scale.close)
        changed = mx.any((before != after) & may).item()
        yield Finding(7, f"{what}, shows in {seen}", float(not changed), 0.0)


def _read_by(bench: Bench, n_heads: int, n_kv_heads: int) -> mx.array:
    """For each query head the KV head that it reads. Shape `(head,)`."""
    heads = mx.arange(n_heads)
    return heads % n_kv_heads if bench.heads.tiled else heads // (n_heads // n_kv_heads)


def _may_change(name: str, shape: tuple[int, ...], position: int, heads: mx.array) -> mx.array:
    """Which scores `(head, query_pos, key_pos)`, or which `z` `(pos, head, d_head)`, an edit of heads may change."""
    first, second, third = (
        mx.arange(n).reshape([-1 if i == axis else 1 for i in range(3)]) for axis, n in enumerate(shape)
    )
    if name == "v":
        return (first >= position) & heads[:, None] & (third >= 0)
    return heads[:, None, None] & ((second if name in _OF_QUERIES else third) == position)


def _as_seen(bench: Bench, name: str) -> Iterator[Finding]:
    """With one query at every position, each key gets one score from all; with one key, each query gives one to all.

    So nothing that depends on positions, RoPE above all, comes after.
    """
    cache = bench.inside("attn_scores", Ablate("mean").at(name))
    for layer in cache.layers("attn_scores"):
        scores = cache["attn_scores", layer]
        one = scores[..., -1:, :] if name == "rot_q" else mx.diagonal(scores, axis1=-2, axis2=-1)[..., None]
        both = (_shown(scores) != 0) & (_shown(one) != 0)
        got, wanted = mx.where(both, scores, 0), mx.where(both, one, 0)
        yield bench.scale.finding(7, f"{Site(name, layer)} is what attention sees", got, wanted, bench.scale.close)


def _shown(scores: mx.array) -> mx.array:
    """Scores with what is masked made 0."""
    return mx.where(scores > 0.9 * float(mx.finfo(scores.dtype).min), scores, 0)
