"""Law 2: what mixer and MLP add to the stream is what the stream gains."""

from collections.abc import Iterator

from mlx_patch.interventions import Replace
from mlx_patch.laws._bench import ZERO, Bench
from mlx_patch.laws._report import Finding
from mlx_patch.sites import Site


def sums(bench: Bench) -> Iterator[Finding]:
    """Law 2."""
    cache, close = bench.own[1], bench.scale.close
    for layer in range(bench.model.n_layers):
        stream = cache["resid_pre", layer] + cache["mixer_out", layer]
        if bench.has("resid_mid"):
            middle = cache["resid_mid", layer]
            yield bench.scale.finding(2, str(Site("resid_mid", layer)), stream, middle, close)
        after, total = cache["resid_post", layer], stream + cache["mlp_out", layer]
        yield bench.scale.finding(2, str(Site("resid_post", layer)), total, after, close)
        if layer:
            before = cache["resid_post", layer - 1]
            yield bench.scale.finding(2, str(Site("resid_pre", layer)), cache["resid_pre", layer], before, 0.0)
    for name in ("attn_out", "mixer_out", "mlp_out"):
        if bench.has(name):
            yield from _without(bench, name)


def _without(bench: Bench, name: str) -> Iterator[Finding]:
    """The stream without something that is added to it is less by it; all else is held, in each layer by itself."""
    own = bench.own[1]
    after = "resid_mid" if bench.has("resid_mid") and name != "mlp_out" else "resid_post"
    held = [Replace(own).at(other) for other in ("resid_pre", "mlp_out") if other != name]
    cache = bench.inside(after, *held, ZERO.at(name))
    for layer in own.layers(name):
        site = Site(after, layer)
        again = cache[site] + own[name, layer]
        yield bench.scale.finding(2, f"{site} without {name}", again, own[site], bench.scale.close)
