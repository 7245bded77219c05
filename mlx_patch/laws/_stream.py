"""Law 2: what mixer and MLP add to the stream is what the stream gains."""

from collections.abc import Iterator

from mlx_patch.architectures import Stream
from mlx_patch.interventions import Replace
from mlx_patch.laws._bench import ZERO, Bench
from mlx_patch.laws._report import Finding
from mlx_patch.sites import Site


def sums(bench: Bench) -> Iterator[Finding]:
    """Law 2; where a table knows nothing that is added, only that the stream goes on from block to block."""
    cache, close, rule = bench.own[1], bench.scale.close, bench.stream
    for layer, block in enumerate(bench.model.layout.blocks):
        stream = cache["resid_pre", layer]
        if ("mixer_out", layer) in cache:
            stream = rule.mid(stream, cache["mixer_out", layer], block)
        if ("resid_mid", layer) in cache:
            middle = cache["resid_mid", layer]
            yield bench.scale.finding(2, str(Site("resid_mid", layer)), stream, middle, close)
        if ("mlp_out", layer) in cache:
            stream = rule.post(stream, cache["mlp_out", layer], block, **bench.more[layer])
        if bench.has("mixer_out") or bench.has("mlp_out"):
            yield bench.scale.finding(2, str(Site("resid_post", layer)), stream, cache["resid_post", layer], close)
        if layer:
            before = bench.model.layout.between(layer, cache["resid_post", layer - 1])
            yield bench.scale.finding(2, str(Site("resid_pre", layer)), cache["resid_pre", layer], before, 0.0)
    for name in ("attn_out", "mixer_out", "mlp_out"):
        if bench.has(name) and rule == Stream():
            yield from _without(bench, name)


def _without(bench: Bench, name: str) -> Iterator[Finding]:
    """The stream without something that is added to it is less by it; all else is held, in each layer by itself.

    Every other layer at a time: what leaves one may be held nowhere but where the next one reads it.
    """
    for start in (0, 1):
        if layers := bench.own[1].layers(name)[start::2]:
            yield from _without_at(bench, name, layers)


def _without_at(bench: Bench, name: str, layers: tuple[int, ...]) -> Iterator[Finding]:
    own, seen = bench.own[1], [n for n in ("resid_mid", "resid_post") if bench.has(n)]
    others = [(other, bench.own[1].layers(other)) for other in ("resid_pre", "mlp_out") if other != name]
    held = [Replace(own).at(other, layer=at) for other, has in others if (at := sorted({*has} & {*layers}))]
    held += [Replace(own).at(other) for other in bench.shared if bench.has(other)]
    cache = bench.inside(tuple(seen), *held, ZERO.at(name, layer=layers))
    for layer in layers:
        site = Site("resid_mid" if name != "mlp_out" and ("resid_mid", layer) in own else "resid_post", layer)
        again = cache[site] + own[name, layer]
        yield bench.scale.finding(2, f"{site} without {name}", again, own[site], bench.scale.close)
