"""Laws 3, 4 and 5: an edit does what it says, and nothing else."""

from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx
from typing_extensions import override

from mlx_patch.cache import ActivationCache
from mlx_patch.interventions import Apply, Edit, Intervention, Replace, Scale, Where
from mlx_patch.laws._attention import mixed_in
from mlx_patch.laws._bench import ZERO, Bench
from mlx_patch.laws._report import Finding
from mlx_patch.sites import SITES, Site


def own_value(bench: Bench) -> Iterator[Finding]:
    """Law 3. The values come in float32, as a user's own arithmetic may give them, whatever the model computes in."""
    cache = bench.own[1]
    own = Apply(lambda activation, site: cache[site].astype(mx.float32), name="own value")
    for name in bench.names:
        yield bench.scale.finding(3, name, bench.run(own.at(name)), bench.plain, bench.exactly(name))


_DECIDES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("resid_pre",), "q"),
    (("resid_pre",), "v"),
    (("resid_pre",), "resid_post"),
    (("q",), "rot_q"),
    (("k",), "rot_k"),
    (("attn_scores",), "pattern"),
    (("pattern", "v"), "z"),
    (("rot_q", "rot_k", "v"), "z"),
    (("q", "k", "v"), "z"),
    (("z",), "attn_out"),
    (("resid_pre", "attn_out"), "resid_mid"),
    (("resid_mid",), "mlp_out"),
    (("resid_mid",), "resid_post"),
    (("router_logits",), "expert_weights"),
    (("resid_mid", "router_logits"), "mlp_out"),
    (("resid_mid", "expert_weights", "router_logits"), "mlp_out"),
    (("mlp_post",), "mlp_out"),
    (("resid_mid", "mlp_out"), "resid_post"),
    (("resid_pre", "mixer_out", "mlp_out"), "resid_post"),
)
"""What is decided by what, within a block: with the first replaced by the donor's, the second is the donor's."""


def decides(bench: Bench) -> Iterator[Finding]:
    """Law 4. The edits are at all layers at once, so that each block is seen by itself; some reach the logits."""
    logits, donor = bench.donor
    everywhere = [name for name in bench.shared if name in SITES and not SITES[name].layered]
    reads_stream = bench.heads.gated or bench.heads.indexed
    for sites, decided in _DECIDES:
        given = ("resid_pre", *sites) if decided == "z" and reads_stream else sites
        if bench.has(*given, decided):
            cache = bench.inside(decided, *(Replace(donor).at(name) for name in (*everywhere, *given)))
            for layer in bench.layers(*given, decided):
                if given == ("mlp_post",) and ("expert_weights", layer) in donor:
                    continue  # There are experts beside these neurons.
                if "pattern" in given and mixed_in(bench, layer):
                    continue  # There is another attention beside it.
                yield _decided(bench, " and ".join(given), Site(decided, layer), cache)
    for given, layers in (("embed", range(1)), ("resid_post", range(1, bench.model.n_layers))):
        cache = bench.inside("resid_pre", Replace(donor).at(given))
        yield from (_decided(bench, given, Site("resid_pre", layer), cache) for layer in layers)
    beside = [Replace(donor).at(name) for name in bench.shared]
    for site in _far_reaching(bench):
        got = bench.run(*_undone(bench, site), *beside, *_kept(bench, site), Replace(donor).at(site))
        yield bench.scale.finding(4, f"{site} decides the logits", got, logits, 0.0)
    for name in ("mlp_post", "expert_weights"):
        if bench.has(name):
            yield from _turned(bench, name)


def _decided(bench: Bench, given: str, site: Site, cache: ActivationCache) -> Finding:
    return bench.scale.finding(4, f"{given} decide {site}", cache[site], bench.donor[1][site], bench.scale.close)


def _far_reaching(bench: Bench) -> Iterator[Site]:
    """The stream of the first, a middle and the last layer."""
    for name in ("resid_pre", "resid_mid", "resid_post"):
        if bench.has(name):
            layers = bench.layers(name)
            yield from (Site(name, layer) for layer in sorted({layers[0], layers[len(layers) // 2], layers[-1]}))
    yield Site("embed")


def _undone(bench: Bench, site: Site) -> Iterator[Edit]:
    """What earlier blocks add to the stream made nothing: so it does not become the donor's without the site."""
    for name in ("mixer_out", "mlp_out"):
        if bench.has(name) and (layers := tuple(n for n in bench.own[1].layers(name) if n < (site.layer or 0))):
            yield ZERO.at(name, layer=layers)


def _kept(bench: Bench, site: Site) -> Iterator[Edit]:
    """The streams up to a site that blocks behind it read besides their own."""
    kept, blocks = bench.stream.kept, bench.model.layout.blocks[: (site.layer or 0) + 1]
    if kept and (layers := tuple(layer for layer, block in enumerate(blocks) if kept(block))):
        yield Replace(bench.donor[1]).at("resid_pre", layer=layers)


def _turned(bench: Bench, name: str) -> Iterator[Finding]:
    """What enters a linear map, turned round, turns what comes out round; what enters its activation does not.

    Seen where the map ends, because a norm may come before what is added to the stream.
    """
    own = bench.own[1]
    others = ("resid_pre", "resid_mid", "router_logits") if name == "expert_weights" else ()
    held = [Replace(own).at(other) for other in others if bench.has(other)]
    points = bench.model.layout.points
    linear = (layer for layer in own.layers(name) if points[layer][name].recipe != "inputs")
    ends = {layer: _end(bench, name, layer) for layer in linear}
    edits = ([], [ZERO.at(name)], [(Replace(own) | Scale(-1.0)).at(name)])
    if not ends:
        return
    plain, zero, turned = (bench.inside(tuple(ends.values()), *held, *edit) for edit in edits)
    for layer, end in ends.items():
        again = 2 * zero[end] - turned[end]
        what = f"{Site(name, layer)} turned round turns mlp_out round"
        yield bench.scale.finding(4, what, again, plain[end], bench.scale.close)


def _end(bench: Bench, name: str, layer: int) -> Site:
    """The output of the module that holds the one of a site; of neurons `mlp_out`, or what a norm before that reads."""
    layout = bench.model.layout
    points = layout.points[layer]
    point = points[name]
    if name == "mlp_post" and "expert_weights" not in points:
        out = points["mlp_out"]
        behind = out.side == "output" and not f"{point.path}.".startswith(f"{out.path}.")
        return Site(f"{layout.block_path(layer)}.{out.path}:input") if behind else Site("mlp_out", layer)
    inner = point.path.rpartition(".")[0] or point.path
    return Site(".".join(filter(None, (layout.block_path(layer), inner))) + ":output")


@dataclass(frozen=True, eq=False)
class _Holding(Intervention):
    """Keeps hold of the activation that an edit is made in, and changes nothing."""

    seen: dict[Site, mx.array]

    @override
    def __call__(self, own: mx.array, where: Where) -> mx.array:
        self.seen[where.site] = where.whole
        return own


def forward_only(bench: Bench) -> Iterator[Finding]:
    """Law 5. An edit at one position is there and nowhere else, does not reach back, and shows in its logits.

    Whoever holds on to the activation as it was before finds it unchanged.
    """
    middle = bench.middle
    for name in bench.names:
        seen: dict[Site, mx.array] = {}
        edit = (_Holding(seen) | Replace(bench.donor[1])).at(name, pos=middle)
        logits, cache = bench.model.run_with_cache(bench.tokens, sites=name, edits=[edit])
        before = bench.plain[:, :middle]
        yield bench.scale.finding(5, f"{name}, before", logits[:, :middle], before, bench.scale.close)
        same = mx.array_equal(logits[:, middle], bench.plain[:, middle]).item()
        yield Finding(5, f"{name}, shows", float(bool(same) and _should_show(bench, name)), 0.0)
        first = Site(name, bench.own[1].layers(name)[0] if SITES[name].layered else None)
        yield bench.scale.finding(5, f"{first}, as it was", seen[first], bench.own[1][first], bench.exactly("pattern"))
        wanted = _spliced(first, bench.own[1][first], bench.donor[1][first], middle)
        yield bench.scale.finding(5, f"{first}, at its position", cache[first], wanted, bench.scale.close)


def _should_show(bench: Bench, name: str) -> bool:
    """Whether the donor's value changes anything: a router of one expert, say, gives it all of every token."""
    told = "expert_weights" if name == "router_logits" and bench.has("expert_weights") else name
    own, donor = bench.own[1], bench.donor[1]
    sites = [Site(told, layer) for layer in own.layers(told)] if SITES[told].layered else [Site(told)]
    return not all(mx.array_equal(own[site], donor[site]).item() for site in sites)


def _spliced(site: Site, own: mx.array, donor: mx.array, position: int) -> mx.array:
    """An activation with the donor's at one position."""
    axis = next(i for i, name in enumerate(site.axes) if name in ("pos", "query_pos"))
    shape = [-1 if i == axis else 1 for i in range(own.ndim)]
    return mx.where((mx.arange(own.shape[axis]) == position).reshape(shape), donor, own)
