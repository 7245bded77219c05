"""Law 7: attention patterns are causal, sum to 1 and make z; of heads see `_heads`."""

from collections.abc import Iterator

import mlx.core as mx

from mlx_patch.architectures import attribute
from mlx_patch.cache import ActivationCache
from mlx_patch.interventions import Apply, Replace
from mlx_patch.laws._bench import Bench
from mlx_patch.laws._heads import apart, as_seen, reach, read_by
from mlx_patch.laws._report import Finding
from mlx_patch.sites import SITES, Site


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
    yield from _through_pattern(bench, tuple(layer for layer in layers if not mixed_in(bench, layer)))
    further = (layer for layer in layers if last_positions(bench, layer).size > bench.tokens.shape[1])
    for layer in dict.fromkeys((layers[0], next(further, layers[0]))):
        yield from apart(one, layer)
        yield from reach(one, layer)
    for name in ("rot_q", "rot_k"):
        if bench.has(name):
            yield from as_seen(bench, name)


def mixed_in(bench: Bench, layer: int) -> bool:
    """Whether a layer's `z` is a mixture of what `pattern` gathers and another attention."""
    layout = bench.model.layout
    return bench.heads.mixed_in == layer // (len(layout.blocks) // layout.times) and layout.times > 1


def last_positions(bench: Bench, layer: int) -> mx.array:
    """For each key of a layer's pattern, the last position that it stands for. Shape `(key_pos,)`."""
    positions, further = mx.arange(bench.tokens.shape[1]), bench.heads.further
    if further is None:
        return positions
    return mx.concatenate([positions, further(bench.model.layout.blocks[layer], positions.size)])


def _patterns(bench: Bench, layer: int) -> Iterator[Finding]:
    cache, where = bench.own[1], str(Site("pattern", layer))
    pattern = cache["pattern", layer].astype(mx.float32)
    future = last_positions(bench, layer) > mx.arange(pattern.shape[-2])[:, None]
    yield Finding(7, f"{where}, causal", float(mx.max(mx.where(future, mx.abs(pattern), 0))), 0.0)
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
    """`z` in a run with a row for each key, in which all queries attend to that key alone, in each layer by itself.

    And a last row, in which they attend to none.
    """
    own, raw = bench.own[1], [name for name in bench.shared if name not in SITES]
    keys = max(own["pattern", layer].shape[-1] for layer in own.layers("pattern"))
    alone = Apply(lambda pattern, site: mx.broadcast_to(_one_each(pattern)[:, None, None], pattern.shape))
    beside = bench.model.run_with_cache(bench.tokens, sites=raw)[1] if raw else own
    held = [
        Apply(lambda stream, site, source=source: mx.broadcast_to(source[site], stream.shape)).at(name)
        for source, names in ((own, ["resid_pre"]), (beside, raw))
        for name in names
    ]
    return bench.inside("z", *held, alone.at("pattern"), rows=keys + 1)


def _one_each(pattern: mx.array) -> mx.array:
    """A row for each key and more. Shape `(batch, key_pos)`."""
    return mx.eye(pattern.shape[0], pattern.shape[-1])


def _made(bench: Bench, layer: int, by_key: mx.array) -> Iterator[Finding]:
    """Each query's z is what the keys would give it one by one, weighed by its pattern; and v is what they give.

    Where z is gated, by query and not by key, v is what they give up to that gate, which is found at each query's own
    position.
    """
    cache, where, close = bench.own[1], str(Site("pattern", layer)), bench.scale.close
    pattern, z = (cache[name, layer][0].astype(mx.float32) for name in ("pattern", "z"))
    by_key, rest = by_key[: pattern.shape[-1]], by_key[-1]
    if mixed_in(bench, layer):
        by_key = by_key - rest
    else:
        yield bench.scale.finding(7, f"{where}, none of it and no z", z + rest, z, 0.0)
    shown = mx.all(mx.any(by_key != 0, axis=(-1, -2))).item()
    yield Finding(7, f"{where}, every key shows in every z", float(not shown), 0.0)
    if bench.heads.normed:
        yield from _made_and_normed(bench, layer, by_key)
        return
    made = mx.sum(pattern.transpose(2, 1, 0)[..., None] * by_key, axis=0) + rest
    yield bench.scale.finding(7, f"{where} makes z", made, z, close)
    if ("v", layer) in cache:
        values = cache["v", layer][0].astype(mx.float32)
        values = mx.take(values, read_by(bench, z.shape[1], values.shape[1]), axis=1)
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
    values = mx.take(values, read_by(bench, z.shape[1], values.shape[1]), axis=1)
    gathered = (pattern @ values.swapaxes(0, 1)).swapaxes(0, 1)
    own = mx.diagonal(by_key, axis1=0, axis2=1).transpose(2, 0, 1)
    got, wanted = z * mx.fast.rms_norm(values, None, 0.0), own * mx.fast.rms_norm(gathered, None, 0.0)
    what = f"{Site('pattern', layer)}, v, a norm and a gate make z"
    yield bench.scale.finding(7, what, got, wanted, bench.scale.close)
