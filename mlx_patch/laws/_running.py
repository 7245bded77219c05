"""Laws 1 and 6: a run leaves the model as it was, and shows what was there."""

from collections.abc import Iterator

import mlx.core as mx

from mlx_patch.interventions import Apply, Replace
from mlx_patch.laws._attention import last_positions
from mlx_patch.laws._bench import REWRITTEN, Bench
from mlx_patch.laws._report import Finding
from mlx_patch.sites import SITES, Site

_QUERY_HEADS = ("q", "rot_q", "attn_scores", "pattern", "z")
_FREE = ("d_head", "d_mlp")
_STREAMS = ("embed", "resid_pre", "resid_mid", "resid_post")


def grounds(bench: Bench) -> Iterator[Finding]:
    """What the laws stand on: sites have the axes that their names say, and the unembedding reads `final_norm`."""
    yield from _axes(bench)
    logits = bench.run(Replace(bench.donor[1]).at(bench.end))
    yield bench.scale.finding(4, f"{bench.end} decides the logits", logits, bench.donor[0], 0.0)


def _axes(bench: Bench) -> Iterator[Finding]:
    batch, pos = bench.tokens.shape
    sizes: dict[object, int] = {"batch": batch, "d_model": bench.model.d_model}
    sizes |= {"pos": pos, "query_pos": pos}
    sizes |= {("key_pos", layer): last_positions(bench, layer).size for layer in range(bench.model.n_layers)}
    sizes["streams"] = bench.model.d_model * bench.model.layout.n_streams
    for site in bench.model.sites:
        shape = bench.own[1][site].shape
        wrong = len(shape) != len(site.axes) or any(
            sizes.setdefault(_size(site, axis), size) != size for axis, size in zip(site.axes, shape, strict=True)
        )
        yield Finding(1, f"{site}, shape {shape}", float("inf") if wrong else 0.0, 0.0)


def _size(site: Site, axis: str) -> object:
    """What sites share a size with this one along an axis."""
    if axis == "head":
        return "query heads" if site.name in _QUERY_HEADS else "KV heads", site.layer
    if axis == "d_model" and site.name in _STREAMS:
        return "streams"
    return (site, axis) if axis in _FREE else (axis, site.layer) if axis in ("expert", "key_pos") else axis


def watching(bench: Bench) -> Iterator[Finding]:
    """Law 1."""
    fused = [site for site in bench.model.sites if site.name not in REWRITTEN]
    logits, _ = bench.model.run_with_cache(bench.tokens, sites=fused)
    yield bench.scale.finding(1, "logits, all sites but scores and pattern", logits, bench.plain, 0.0)
    yield bench.scale.finding(1, "logits, all sites", bench.own[0], bench.plain, bench.exactly("pattern"))
    yield Finding(1, "classes of modules", float(bench.n_changed()), 0.0)
    yield from _at_positions(bench)


def _at_positions(bench: Bench) -> Iterator[Finding]:
    """What is kept at some positions, and logits that are asked for at some, are those of the whole."""
    chosen = [1, bench.tokens.shape[1] - 1]
    names = [name for name in ("resid_post", "z", "pattern") if bench.has(name)]
    logits, cache = bench.model.run_with_cache(bench.tokens, sites=names, pos=chosen, logits_at=chosen)
    yield bench.scale.finding(1, "logits at positions", logits, bench.plain[:, mx.array(chosen)], bench.scale.close)
    for name in names:
        site = Site(name, cache.layers(name)[-1])
        axis = 2 if name in REWRITTEN else 1
        whole = mx.take(bench.own[1][site], mx.array(chosen), axis=axis)
        yield bench.scale.finding(1, f"{site} at positions", cache[site], whole, bench.exactly("pattern"))


class _Planned(Exception):
    """Raised on purpose."""


def _fail(activation: mx.array, site: Site) -> mx.array:
    raise _Planned


def restored(bench: Bench) -> Iterator[Finding]:
    """Law 6."""
    for name in bench.names:
        raised = _fails(bench, name, bench.tokens)
        yield Finding(6, f"{name}, classes", float(bench.n_changed()) + (not raised), 0.0)
    yield bench.scale.finding(6, "logits afterwards", bench.raw(), bench.plain, 0.0)
    if not bench.caches:
        return
    prompt_cache, (first, second) = bench.prompt_cache(), bench.parts
    bench.model.run(first, prompt_cache=prompt_cache)
    _fails(bench, bench.end.name, second, prompt_cache)
    logits = bench.model.run(second, prompt_cache=prompt_cache)
    wanted = bench.in_parts[:, bench.middle :]
    yield bench.scale.finding(6, "logits afterwards, over a prompt cache", logits, wanted, 0.0)


def _fails(bench: Bench, name: str, tokens: mx.array, prompt_cache: list | None = None) -> bool:
    layer = bench.own[1].layers(name)[-1] if SITES[name].layered else None
    try:
        bench.model.run(tokens, [Apply(_fail).at(name, layer=layer)], prompt_cache=prompt_cache)
    except _Planned:
        return True
    return False
