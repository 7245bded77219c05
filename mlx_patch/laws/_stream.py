"""Law 2: what mixer and MLP add to the stream is what the stream gains."""

from collections.abc import Iterator

from mlx_patch.architectures import Stream
from mlx_patch.interventions import Replace
from mlx_patch.laws._bench import ZERO, Bench
from mlx_patch.laws._report import Finding
from mlx_patch.sites import Site


def sums(bench: Bench) -> Iterator[Finding]:
    """Law 2. If the table has no site that is added, only that the stream continues from block to block."""
    cache = bench.captured_run[1]
    rule, compare = bench.stream, bench.scale.finding
    for layer, block in enumerate(bench.model.layout.blocks):
        stream = cache["resid_pre", layer]
        if ("mixer_out", layer) in cache:
            stream = rule.mid(stream, cache["mixer_out", layer], block)
        if ("resid_mid", layer) in cache:
            site = Site("resid_mid", layer)
            yield compare(2, str(site), stream, cache[site], bench.scale.close)
        if ("mlp_out", layer) in cache:
            stream = rule.post(stream, cache["mlp_out", layer], block, **bench.more[layer])
        if bench.has("mixer_out") or bench.has("mlp_out"):
            site = Site("resid_post", layer)
            yield compare(2, str(site), stream, cache[site], bench.scale.close)
        if layer:
            site = Site("resid_pre", layer)
            expected = bench.model.layout.between(layer, cache["resid_post", layer - 1])
            yield compare(2, str(site), cache[site], expected, 0.0)
    for name in ("attn_out", "mixer_out", "mlp_out"):
        if bench.has(name) and rule == Stream():
            yield from _without(bench, name)


def _without(bench: Bench, name: str) -> Iterator[Finding]:
    """Zeroing a term of the stream takes exactly that term away; all else is held, so that each layer is tested alone.

    Every other layer at a time: the output of a layer may be held only where the next layer reads it.
    """
    for start in (0, 1):
        if layers := bench.captured_run[1].layers(name)[start::2]:
            yield from _without_at(bench, name, layers)


def _without_at(bench: Bench, name: str, layers: tuple[int, ...]) -> Iterator[Finding]:
    unpatched = bench.captured_run[1]
    edits = []
    for input_name in ("resid_pre", "mlp_out"):
        held_layers = [layer for layer in unpatched.layers(input_name) if layer in layers]
        if input_name != name and held_layers:
            edits.append(Replace(unpatched).at(input_name, layer=held_layers))
    edits += [Replace(unpatched).at(shared) for shared in bench.shared if bench.has(shared)]
    streams = tuple(stream for stream in ("resid_mid", "resid_post") if bench.has(stream))
    cache = bench.inside(streams, *edits, ZERO.at(name, layer=layers))
    for layer in layers:
        site = Site("resid_post", layer)
        if name != "mlp_out" and ("resid_mid", layer) in unpatched:
            site = Site("resid_mid", layer)
        description = f"{site} without {name}"
        restored = cache[site] + unpatched[name, layer]
        yield bench.scale.finding(2, description, restored, unpatched[site], bench.scale.close)
