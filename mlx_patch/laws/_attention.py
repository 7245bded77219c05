"""Law 7: attention patterns are causal, sum to 1 and make z; of heads see `_heads`."""

from collections.abc import Iterator

import mlx.core as mx

from mlx_patch.architectures import attribute_at
from mlx_patch.cache import ActivationCache
from mlx_patch.interventions import Apply, Edit, Replace
from mlx_patch.laws._bench import Bench
from mlx_patch.laws._heads import as_seen, independent_heads, reach, read_by
from mlx_patch.laws._report import Finding
from mlx_patch.sites import SITES, Site


def heads(bench: Bench) -> Iterator[Finding]:
    """Law 7."""
    if not bench.has("attn_scores", "pattern", "z"):
        return
    layers = bench.layers("attn_scores", "pattern", "z")
    first_row = Bench(bench.model, bench.tokens[:1], bench.other[:1])
    by_key = _attend_to_each_key(first_row)
    for layer in layers:
        yield from _patterns(bench, layer)
        yield from _gathered(first_row, layer, by_key["z", layer].astype(mx.float32))
    unmixed = tuple(layer for layer in layers if not mixed_in(bench, layer))
    yield from _through_pattern(bench, unmixed)
    # The first layer, and the first with more keys than positions, if there is one.
    with_further_keys = (layer for layer in layers if last_positions(bench, layer).size > bench.tokens.shape[1])
    for layer in dict.fromkeys((layers[0], next(with_further_keys, layers[0]))):
        yield from independent_heads(first_row, layer)
        yield from reach(first_row, layer)
    for name in ("rot_q", "rot_k"):
        if bench.has(name):
            yield from as_seen(bench, name)


def mixed_in(bench: Bench, layer: int) -> bool:
    """Whether a layer's `z` is a mixture of what `pattern` gathers and another attention."""
    layout = bench.model.layout
    layers_a_walk = len(layout.blocks) // layout.times
    return layout.times > 1 and bench.heads.mixed_in == layer // layers_a_walk


def last_positions(bench: Bench, layer: int) -> mx.array:
    """For each key of a layer's pattern, the last position that it stands for. Shape `(key_pos,)`."""
    positions = mx.arange(bench.tokens.shape[1])
    further = bench.heads.further
    if further is None:
        return positions
    block = bench.model.layout.blocks[layer]
    return mx.concatenate([positions, further(block, positions.size)])


def _patterns(bench: Bench, layer: int) -> Iterator[Finding]:
    cache, close = bench.captured_run[1], bench.scale.close
    site = str(Site("pattern", layer))
    pattern = cache["pattern", layer].astype(mx.float32)
    queries = mx.arange(pattern.shape[-2])[:, None]
    in_future = last_positions(bench, layer) > queries
    leak = mx.max(mx.where(in_future, mx.abs(pattern), 0))
    yield Finding(7, f"{site}, causal", float(leak), 0.0)
    scores = cache["attn_scores", layer].astype(mx.float32)
    sinks = _sinks(bench, layer)
    if sinks is None:
        sums = pattern.sum(axis=-1)
        ones = mx.ones_like(sums)
        yield bench.scale.finding(7, f"{site}, rows sum to 1", sums, ones, close)
        softmax = mx.softmax(scores, axis=-1)
    else:
        sinks = sinks.astype(mx.float32)[:, None, None]
        column = mx.broadcast_to(sinks, (*scores.shape[:-1], 1))
        with_sinks = mx.concatenate([column, scores], axis=-1)
        softmax = mx.softmax(with_sinks, axis=-1)[..., 1:]
    yield bench.scale.finding(7, f"{site}, softmax of scores", softmax, pattern, close)


def _sinks(bench: Bench, layer: int) -> mx.array | None:
    """The scores that take part in a layer's softmax and attend to nothing. Shape `(head,)`."""
    path = bench.heads.sinks
    if not path:
        return None
    return attribute_at(bench.model.layout.blocks[layer], path)


def _attend_to_each_key(bench: Bench) -> ActivationCache:
    """`z` in a run with a row for each key, in which all queries attend to that key alone.

    In a last row they attend to no key. Each block reads the unpatched stream, and so is tested by itself.
    """
    unpatched = bench.captured_run[1]
    patterns = [unpatched["pattern", layer] for layer in unpatched.layers("pattern")]
    n_keys = max(pattern.shape[-1] for pattern in patterns)
    edits = [_hold_in_every_row(unpatched, "resid_pre")]
    raw_names = [name for name in bench.shared if name not in SITES]
    if raw_names:
        raw_cache = bench.model.run_with_cache(bench.tokens, sites=raw_names)[1]
        edits += [_hold_in_every_row(raw_cache, name) for name in raw_names]
    return bench.inside("z", *edits, Apply(_one_key_a_row).at("pattern"), rows=n_keys + 1)


def _hold_in_every_row(source: ActivationCache, name: str) -> Edit:
    """An edit that gives every row the activation of a run with one row."""
    return Apply(lambda activation, site: mx.broadcast_to(source[site], activation.shape)).at(name)


def _one_key_a_row(pattern: mx.array, site: Site) -> mx.array:
    """A pattern in which row n attends to key n alone; rows after the last key attend to none."""
    chosen = mx.eye(pattern.shape[0], pattern.shape[-1])
    return mx.broadcast_to(chosen[:, None, None], pattern.shape)


def _gathered(bench: Bench, layer: int, by_key: mx.array) -> Iterator[Finding]:
    """Each query's z is the sum over keys of z when it attends to that key alone, weighted by the pattern.

    And z when it attends to one key alone is that key's v. Where z is gated, by query and not by key, this holds up to
    the gate, which is read off where each query attends to its own position.
    """
    cache, close = bench.captured_run[1], bench.scale.close
    site = str(Site("pattern", layer))
    pattern = cache["pattern", layer][0].astype(mx.float32)
    z = cache["z", layer][0].astype(mx.float32)
    without_keys = by_key[-1]
    by_key = by_key[: pattern.shape[-1]]
    if mixed_in(bench, layer):
        by_key = by_key - without_keys
    else:
        yield bench.scale.finding(7, f"{site}, none of it and no z", z + without_keys, z, 0.0)
    key_shows = mx.any(by_key != 0, axis=(-1, -2))
    every_key_shows = mx.all(key_shows).item()
    yield Finding(7, f"{site}, every key shows in every z", float(not every_key_shows), 0.0)
    if bench.heads.normed:
        yield from _gathered_and_normed(bench, layer, by_key)
        return
    weights = pattern.transpose(2, 1, 0)[..., None]
    weighted_sum = mx.sum(weights * by_key, axis=0) + without_keys
    yield bench.scale.finding(7, f"{site} makes z", weighted_sum, z, close)
    if ("v", layer) in cache:
        yield _values_make_z(bench, layer, by_key)


def _values_make_z(bench: Bench, layer: int, by_key: mx.array) -> Finding:
    site, close = str(Site("pattern", layer)), bench.scale.close
    values = _values_by_head(bench, layer)
    at_itself = _own_key(by_key)
    if mx.array_equal(at_itself, values).item():
        expected = mx.broadcast_to(values[:, None], by_key.shape)
        return bench.scale.finding(7, f"{site} and v make z", by_key, expected, close)
    # z is gate[query] * v[key]. Multiplied crosswise, the gate cancels: nothing is divided by a v that may be 0.
    product = by_key * values
    expected = at_itself * values[:, None]
    return bench.scale.finding(7, f"{site}, v and a gate make z", product, expected, close)


def _values_by_head(bench: Bench, layer: int) -> mx.array:
    """The values that each query head reads. Shape `(pos, head, d_head)`."""
    cache = bench.captured_run[1]
    values = cache["v", layer][0].astype(mx.float32)
    n_heads = cache["z", layer].shape[2]
    kv_heads = read_by(bench, n_heads, values.shape[1])
    return mx.take(values, kv_heads, axis=1)


def _own_key(by_key: mx.array) -> mx.array:
    """z of each query when it attends to its own position alone. Shape `(pos, head, d_head)`."""
    return mx.diagonal(by_key, axis1=0, axis2=1).transpose(2, 0, 1)


def _through_pattern(bench: Bench, layers: tuple[int, ...]) -> Iterator[Finding]:
    """Queries and keys act through the pattern alone: with the pattern held, other q and k leave z as it is."""
    unpatched, close = bench.captured_run[1], bench.scale.close
    edits = [Replace(unpatched).at(name) for name in ("resid_pre", "pattern")]
    for name in ("q", "k"):
        if bench.has(name):
            edits.append(Replace(bench.donor[1]).at(name))
    cache = bench.inside("z", *edits)
    for layer in layers:
        description = f"{Site('z', layer)} with other q and k, and its pattern"
        z, expected = cache["z", layer], unpatched["z", layer]
        yield bench.scale.finding(7, description, z, expected, close)


def _gathered_and_normed(bench: Bench, layer: int, by_key: mx.array) -> Iterator[Finding]:
    """z is the gathered values, normed and gated; the gate is read off where each query attends to itself."""
    cache = bench.captured_run[1]
    pattern = cache["pattern", layer][0].astype(mx.float32)
    z = cache["z", layer][0].astype(mx.float32)
    values = _values_by_head(bench, layer)
    gathered = (pattern @ values.swapaxes(0, 1)).swapaxes(0, 1)
    # Multiplied crosswise, as in `_values_make_z`.
    product = z * mx.fast.rms_norm(values, None, 0.0)
    expected = _own_key(by_key) * mx.fast.rms_norm(gathered, None, 0.0)
    description = f"{Site('pattern', layer)}, v, a norm and a gate make z"
    yield bench.scale.finding(7, description, product, expected, bench.scale.close)
