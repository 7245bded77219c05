"""Laws 3, 4 and 5: an edit changes what it names, and nothing else."""

from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx
from typing_extensions import override

from mlx_patch.cache import ActivationCache
from mlx_patch.interventions import Apply, Edit, Intervention, Replace, Scale, Where, pos_axis
from mlx_patch.laws._attention import mixed_in
from mlx_patch.laws._bench import ZERO, Bench
from mlx_patch.laws._report import Finding
from mlx_patch.sites import SITES, Site


def own_value(bench: Bench) -> Iterator[Finding]:
    """Law 3. The values come in float32, as a user's own arithmetic may give them, whatever the model computes in."""
    cache = bench.captured_run[1]
    patch = Apply(lambda activation, site: cache[site].astype(mx.float32), name="own value")
    for name in bench.names:
        logits = bench.run(patch.at(name))
        yield bench.scale.finding(3, name, logits, bench.plain, bench.exactly(name))


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
"""Pairs of sites within a block: with the first replaced by the donor's, the second is the donor's."""


def decides(bench: Bench) -> Iterator[Finding]:
    """Law 4. The edits are at all layers at once, so that each block is tested by itself; some reach the logits."""
    reads_stream = bench.heads.gated or bench.heads.indexed
    for sites, effect in _DECIDES:
        causes = sites
        if effect == "z" and reads_stream:
            causes = ("resid_pre", *sites)
        if bench.has(*causes, effect):
            yield from _decides_in_blocks(bench, causes, effect)
    yield from _decides_next_block(bench, "embed", range(1))
    yield from _decides_next_block(bench, "resid_post", range(1, bench.model.n_layers))
    yield from _decides_logits(bench)
    for name in ("mlp_post", "expert_weights"):
        if bench.has(name):
            yield from _negated(bench, name)


def _decides_in_blocks(bench: Bench, causes: tuple[str, ...], effect: str) -> Iterator[Finding]:
    donor = bench.donor[1]
    replace = Replace(donor)
    edits = [replace.at(name) for name in bench.shared if name in SITES and not SITES[name].layered]
    edits += [replace.at(name) for name in causes]
    cache = bench.inside(effect, *edits)
    for layer in bench.layers(*causes, effect):
        if causes == ("mlp_post",) and ("expert_weights", layer) in donor:
            continue  # There are experts beside these neurons.
        if "pattern" in causes and mixed_in(bench, layer):
            continue  # There is another attention beside it.
        yield _decided(bench, " and ".join(causes), Site(effect, layer), cache)


def _decides_next_block(bench: Bench, cause: str, layers: range) -> Iterator[Finding]:
    cache = bench.inside("resid_pre", Replace(bench.donor[1]).at(cause))
    for layer in layers:
        yield _decided(bench, cause, Site("resid_pre", layer), cache)


def _decides_logits(bench: Bench) -> Iterator[Finding]:
    donor_logits, donor = bench.donor
    shared = [Replace(donor).at(name) for name in bench.shared]
    for site in _far_reaching(bench):
        edits = [*_zero_before(bench, site), *shared, *_replace_kept(bench, site)]
        logits = bench.run(*edits, Replace(donor).at(site))
        yield bench.scale.finding(4, f"{site} decides the logits", logits, donor_logits, 0.0)


def _decided(bench: Bench, causes: str, site: Site, cache: ActivationCache) -> Finding:
    description = f"{causes} decide {site}"
    expected = bench.donor[1][site]
    return bench.scale.finding(4, description, cache[site], expected, bench.scale.close)


def _far_reaching(bench: Bench) -> Iterator[Site]:
    """The stream of the first, a middle and the last layer."""
    for name in ("resid_pre", "resid_mid", "resid_post"):
        if bench.has(name):
            layers = bench.layers(name)
            chosen = {layers[0], layers[len(layers) // 2], layers[-1]}
            yield from (Site(name, layer) for layer in sorted(chosen))
    yield Site("embed")


def _zero_before(bench: Bench, site: Site) -> Iterator[Edit]:
    """Edits that make earlier blocks add nothing, so that only the site makes the stream the donor's."""
    for name in ("mixer_out", "mlp_out"):
        if not bench.has(name):
            continue
        end = site.layer or 0
        layers = tuple(layer for layer in bench.captured_run[1].layers(name) if layer < end)
        if layers:
            yield ZERO.at(name, layer=layers)


def _replace_kept(bench: Bench, site: Site) -> Iterator[Edit]:
    """An edit of the streams up to a site that later blocks read besides their own."""
    is_kept = bench.stream.kept
    if is_kept is None:
        return
    blocks = bench.model.layout.blocks[: (site.layer or 0) + 1]
    layers = tuple(layer for layer, block in enumerate(blocks) if is_kept(block))
    if layers:
        yield Replace(bench.donor[1]).at("resid_pre", layer=layers)


def _negated(bench: Bench, name: str) -> Iterator[Finding]:
    """Negating the input of a linear map negates its output; the input of its activation function would not.

    The output is read where the map ends, because a norm may come before `mlp_out`.
    """
    unpatched = bench.captured_run[1]
    inputs: list[Edit] = []
    if name == "expert_weights":
        names = ("resid_pre", "resid_mid", "router_logits")
        inputs = [Replace(unpatched).at(input_name) for input_name in names if bench.has(input_name)]
    points = bench.model.layout.points
    linear = (layer for layer in unpatched.layers(name) if points[layer][name].recipe != "inputs")
    ends = {layer: _end_of_map(bench, name, layer) for layer in linear}
    if not ends:
        return
    sites = tuple(ends.values())
    negate = (Replace(unpatched) | Scale(-1.0)).at(name)
    plain = bench.inside(sites, *inputs)
    zero = bench.inside(sites, *inputs, ZERO.at(name))
    negated = bench.inside(sites, *inputs, negate)
    for layer, end in ends.items():
        # A map with a bias: f(x) = Ax + b, so 2 f(0) - f(-x) = f(x).
        output = 2 * zero[end] - negated[end]
        description = f"{Site(name, layer)} turned round turns mlp_out round"
        yield bench.scale.finding(4, description, output, plain[end], bench.scale.close)


def _end_of_map(bench: Bench, name: str, layer: int) -> Site:
    """The output of the module that holds a site's module; of neurons `mlp_out`, or the input of a norm before it."""
    layout = bench.model.layout
    points = layout.points[layer]
    point, block_path = points[name], layout.block_path(layer)
    if name == "mlp_post" and "expert_weights" not in points:
        output = points["mlp_out"]
        is_inside = f"{point.path}.".startswith(f"{output.path}.")
        if output.side == "output" and not is_inside:
            return Site(f"{block_path}.{output.path}:input")
        return Site("mlp_out", layer)
    holder = point.path.rpartition(".")[0] or point.path
    path = ".".join(filter(None, (block_path, holder)))
    return Site(f"{path}:output")


@dataclass(frozen=True, eq=False)
class _Reference(Intervention):
    """Stores a reference to the activation that an edit is made in, and changes nothing."""

    activations: dict[Site, mx.array]

    @override
    def __call__(self, activation: mx.array, where: Where) -> mx.array:
        self.activations[where.site] = where.whole
        return activation


def forward_only(bench: Bench) -> Iterator[Finding]:
    """Law 5. An edit at one position changes no other, does not reach back, and shows in the logits.

    A reference to the activation before the edit still has the old value.
    """
    for name in bench.names:
        before_edit: dict[Site, mx.array] = {}
        intervention = _Reference(before_edit) | Replace(bench.donor[1])
        edit = intervention.at(name, pos=bench.middle)
        logits, cache = bench.model.run_with_cache(bench.tokens, sites=name, edits=[edit])
        yield from _forward_in_logits(bench, name, logits)
        layer = None
        if SITES[name].layered:
            layer = bench.captured_run[1].layers(name)[0]
        site = Site(name, layer)
        unpatched = bench.captured_run[1][site]
        donor = bench.donor[1][site]
        yield bench.scale.finding(5, f"{site}, as it was", before_edit[site], unpatched, bench.exactly("pattern"))
        expected = _splice(site, unpatched, donor, bench.middle)
        yield bench.scale.finding(5, f"{site}, at its position", cache[site], expected, bench.scale.close)


def _forward_in_logits(bench: Bench, name: str, logits: mx.array) -> Iterator[Finding]:
    middle = bench.middle
    before, expected = logits[:, :middle], bench.plain[:, :middle]
    yield bench.scale.finding(5, f"{name}, before", before, expected, bench.scale.close)
    is_same = mx.array_equal(logits[:, middle], bench.plain[:, middle]).item()
    hidden = bool(is_same) and _should_show(bench, name)
    yield Finding(5, f"{name}, shows", float(hidden), 0.0)


def _should_show(bench: Bench, name: str) -> bool:
    """Whether the donor's value changes anything: a router of one expert, say, gives it all of every token."""
    if name == "router_logits" and bench.has("expert_weights"):
        name = "expert_weights"
    unpatched, donor = bench.captured_run[1], bench.donor[1]
    if SITES[name].layered:
        sites = [Site(name, layer) for layer in unpatched.layers(name)]
    else:
        sites = [Site(name)]
    return not all(mx.array_equal(unpatched[site], donor[site]).item() for site in sites)


def _splice(site: Site, unpatched: mx.array, donor: mx.array, position: int) -> mx.array:
    """An activation with the donor's at one position."""
    axis = pos_axis(site)
    shape = [1] * unpatched.ndim
    shape[axis] = -1
    at_position = mx.arange(unpatched.shape[axis]) == position
    return mx.where(at_position.reshape(shape), donor, unpatched)
