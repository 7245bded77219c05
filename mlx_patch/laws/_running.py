"""Laws 1 and 6: a run leaves the model as it was, and captures do not change it."""

from collections.abc import Iterator

import mlx.core as mx

from mlx_patch.interventions import Apply, Replace, pos_axis
from mlx_patch.laws._attention import last_positions
from mlx_patch.laws._bench import REWRITTEN, Bench
from mlx_patch.laws._report import Finding
from mlx_patch.sites import SITES, Site

_QUERY_HEADS = ("q", "rot_q", "attn_scores", "pattern", "z")
_FREE = ("d_head", "d_mlp")
_STREAMS = ("embed", "resid_pre", "resid_mid", "resid_post")


def grounds(bench: Bench) -> Iterator[Finding]:
    """Conditions of all laws: sites have the axes of their names, and the unembedding reads `final_norm`."""
    yield from _axes(bench)
    logits = bench.run(Replace(bench.donor[1]).at(bench.end))
    yield bench.scale.finding(4, f"{bench.end} decides the logits", logits, bench.donor[0], 0.0)


def _axes(bench: Bench) -> Iterator[Finding]:
    batch, n_positions = bench.tokens.shape
    sizes: dict[object, int] = {"batch": batch, "d_model": bench.model.d_model}
    sizes |= {"pos": n_positions, "query_pos": n_positions}
    sizes["streams"] = bench.model.d_model * bench.model.layout.n_streams
    for layer in range(bench.model.n_layers):
        sizes["key_pos", layer] = last_positions(bench, layer).size
    for site in bench.model.sites:
        shape = bench.captured_run[1][site].shape
        deviation = float("inf")
        if len(shape) == len(site.axes) and _fits(site, shape, sizes):
            deviation = 0.0
        yield Finding(1, f"{site}, shape {shape}", deviation, 0.0)


def _fits(site: Site, shape: tuple[int, ...], sizes: dict[object, int]) -> bool:
    """Whether a shape has the sizes of the site's axes. A size that is met for the first time is added to `sizes`."""
    for axis, size in zip(site.axes, shape, strict=True):
        if sizes.setdefault(_size_key(site, axis), size) != size:
            return False
    return True


def _size_key(site: Site, axis: str) -> object:
    """A key that is the same for sites that must agree in size along an axis."""
    if axis == "head":
        if site.name in _QUERY_HEADS:
            return "query heads", site.layer
        return "KV heads", site.layer
    if axis == "d_model" and site.name in _STREAMS:
        return "streams"
    if axis in _FREE:
        return site, axis
    if axis in ("expert", "key_pos"):
        return axis, site.layer
    return axis


def watching(bench: Bench) -> Iterator[Finding]:
    """Law 1."""
    fused = [site for site in bench.model.sites if site.name not in REWRITTEN]
    logits, _ = bench.model.run_with_cache(bench.tokens, sites=fused)
    yield bench.scale.finding(1, "logits, all sites but scores and pattern", logits, bench.plain, 0.0)
    yield bench.scale.finding(1, "logits, all sites", bench.captured_run[0], bench.plain, bench.exactly("pattern"))
    yield Finding(1, "classes of modules", float(bench.n_changed()), 0.0)
    yield from _at_positions(bench)


def _at_positions(bench: Bench) -> Iterator[Finding]:
    """Captures and logits at some positions are those of a run without a choice of positions."""
    positions = [1, bench.tokens.shape[1] - 1]
    names = [name for name in ("resid_post", "z", "pattern") if bench.has(name)]
    logits, cache = bench.model.run_with_cache(bench.tokens, sites=names, pos=positions, logits_at=positions)
    expected = bench.plain[:, mx.array(positions)]
    yield bench.scale.finding(1, "logits at positions", logits, expected, bench.scale.close)
    for name in names:
        site = Site(name, cache.layers(name)[-1])
        activation = bench.captured_run[1][site]
        expected = mx.take(activation, mx.array(positions), axis=pos_axis(site))
        yield bench.scale.finding(1, f"{site} at positions", cache[site], expected, bench.exactly("pattern"))


class _Planned(Exception):
    """Raised on purpose."""


def _fail(activation: mx.array, site: Site) -> mx.array:
    raise _Planned


def restored(bench: Bench) -> Iterator[Finding]:
    """Law 6."""
    for name in bench.names:
        raised = _fails(bench, name, bench.tokens)
        deviation = float(bench.n_changed())
        if not raised:
            deviation += 1.0
        yield Finding(6, f"{name}, classes", deviation, 0.0)
    yield bench.scale.finding(6, "logits afterwards", bench.raw(), bench.plain, 0.0)
    if not bench.caches:
        return
    prompt_cache, (first, second) = bench.prompt_cache(), bench.parts
    bench.model.run(first, prompt_cache=prompt_cache)
    _fails(bench, bench.end.name, second, prompt_cache)
    logits = bench.model.run(second, prompt_cache=prompt_cache)
    expected = bench.in_parts[:, bench.middle :]
    yield bench.scale.finding(6, "logits afterwards, over a prompt cache", logits, expected, 0.0)


def _fails(bench: Bench, name: str, tokens: mx.array, prompt_cache: list | None = None) -> bool:
    """Run with an edit that raises. Whether the exception came out of the run."""
    layer = None
    if SITES[name].layered:
        layer = bench.captured_run[1].layers(name)[-1]
    try:
        bench.model.run(tokens, [Apply(_fail).at(name, layer=layer)], prompt_cache=prompt_cache)
    except _Planned:
        return True
    return False
