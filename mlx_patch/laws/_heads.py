"""Law 7: heads are heads, queries ask and keys are asked."""

from collections.abc import Iterator

import mlx.core as mx

from mlx_patch.interventions import Ablate
from mlx_patch.laws._bench import ZERO, Bench
from mlx_patch.laws._report import Finding
from mlx_patch.sites import Site

_OF_QUERIES = ("q", "rot_q")
_OF_KEYS = ("k", "rot_k")


def apart(bench: Bench, layer: int) -> Iterator[Finding]:
    """A head without its pattern is a head without its z, in what attention adds; and the others keep theirs.

    Two runs with a row for each head, in its place both times: a BLAS may round the rows of one product otherwise.
    """
    z, n_heads = Site("z", layer), bench.own[1]["z", layer].shape[2]
    sites = (z, Site("attn_out", layer), Site("pattern", layer))
    plain = bench.inside(z, rows=n_heads)["z", layer]
    got = {
        name: bench.inside(sites, *(ZERO.at(name, layer=layer, head=h, batch=h) for h in range(n_heads)), rows=n_heads)
        for name in ("z", "pattern")
    }
    by_z, by_pattern = (got[name]["attn_out", layer] for name in ("z", "pattern"))
    others = 1 - mx.eye(n_heads)[:, None, :, None]
    for head in range(n_heads):
        where, tolerance = f"head {head} of {Site('pattern', layer)}", bench.exactly("pattern")
        yield bench.scale.finding(7, where, by_pattern[head], by_z[head], tolerance)
        for name, cache in got.items():
            kept, wanted = (array[head] * others[head].astype(array.dtype) for array in (cache["z", layer], plain))
            what = f"head {head} of {Site(name, layer)}, the others"
            yield bench.scale.finding(7, what, kept, wanted, bench.scale.close)


def reach(bench: Bench, layer: int) -> Iterator[Finding]:
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
        mine = read_by(bench, own["z", layer].shape[2], own[name, layer].shape[2]) == head
        all_heads = bench.heads.mixed and name in ("q", "k")
        may = _may_change(name, before.shape, bench.middle, mine | all_heads)
        what = f"head {head} of {Site(name, layer)} at one position"
        kept = mx.where(may, before, after)
        yield bench.scale.finding(7, f"{what}, elsewhere in {seen}", kept, before, bench.scale.close)
        changed = mx.any((before != after) & may).item()
        yield Finding(7, f"{what}, shows in {seen}", float(not changed), 0.0)


def read_by(bench: Bench, n_heads: int, n_kv_heads: int) -> mx.array:
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


def as_seen(bench: Bench, name: str) -> Iterator[Finding]:
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
