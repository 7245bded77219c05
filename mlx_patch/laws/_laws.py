"""The laws: what must hold of every model, whatever its architecture, if its table tells the truth.

Each law takes a `Bench`, a model with two prompts and their captured runs, and gives findings. Nothing here knows how a
model is built; what a table says is checked only by what the model does.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from mlx_patch.interventions import Ablate, Apply, Edit, Replace, pos_axis
from mlx_patch.laws._report import Finding, Scale
from mlx_patch.sites import SITES, Site

Law = Callable[["Bench"], Iterator[Finding]]

_REWRITTEN = ("attn_scores", "pattern")
"""Sites for which attention is written out: on a GPU the fused kernel rounds otherwise."""


@dataclass(frozen=True, eq=False)
class Bench:
    """A model with two prompts, of one length and unlike in every token.

    Attributes:
        model: A `HookedModel`.
        tokens: The prompt of most runs. Shape `(1, pos)`.
        other: The prompt of the donor's run. Shape `(1, pos)`.
    """

    model: Any
    tokens: mx.array
    other: mx.array

    @cached_property
    def scale(self) -> Scale:
        """Deviations in the model's precision."""
        return Scale(self.model.model)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The short names of the model's sites."""
        return tuple(dict.fromkeys(site.name for site in self.model.sites))

    @cached_property
    def plain(self) -> mx.array:
        """The logits of the raw model."""
        logits = self.model.model(self.tokens)
        mx.eval(logits)
        return logits

    @cached_property
    def own(self) -> tuple[mx.array, Any]:
        """Logits and all activations of `tokens`."""
        return self.model.run_with_cache(self.tokens, sites=self.model.sites)

    @cached_property
    def donor(self) -> tuple[mx.array, Any]:
        """Logits and all activations of `other`."""
        return self.model.run_with_cache(self.other, sites=self.model.sites)

    def has(self, *names: str) -> bool:
        """Whether the model has all of these sites."""
        return set(names) <= set(self.names)

    def exactly(self, name: str) -> float:
        """The tolerance where nothing but the way of computing attention may round otherwise."""
        return self.scale.exact if name in _REWRITTEN else 0.0

    def run(self, *edits: Edit) -> mx.array:
        """The logits of `tokens` with edits."""
        return self.model.run(self.tokens, edits)


def watching(bench: Bench) -> Iterator[Finding]:
    """Law 1."""
    before = [type(module) for module in bench.model.model.modules()]
    fused = [site for site in bench.model.sites if site.name not in _REWRITTEN]
    logits, _ = bench.model.run_with_cache(bench.tokens, sites=fused)
    yield bench.scale.finding(1, "logits, all sites but scores and pattern", logits, bench.plain, 0.0)
    yield bench.scale.finding(1, "logits, all sites", bench.own[0], bench.plain, bench.exactly("pattern"))
    after = [type(module) for module in bench.model.model.modules()]
    yield Finding(1, "classes of modules", float(sum(a is not b for a, b in zip(before, after, strict=True))), 0.0)


def sums(bench: Bench) -> Iterator[Finding]:
    """Law 2."""
    cache = bench.own[1]
    for layer in range(bench.model.n_layers):
        stream = cache["resid_pre", layer] + cache["mixer_out", layer]
        if bench.has("resid_mid"):
            middle = cache["resid_mid", layer]
            yield bench.scale.finding(2, str(Site("resid_mid", layer)), stream, middle, bench.scale.close)
        after, total = cache["resid_post", layer], stream + cache["mlp_out", layer]
        yield bench.scale.finding(2, str(Site("resid_post", layer)), total, after, bench.scale.close)
        if layer:
            before = cache["resid_post", layer - 1]
            yield bench.scale.finding(2, str(Site("resid_pre", layer)), cache["resid_pre", layer], before, 0.0)


def own_value(bench: Bench) -> Iterator[Finding]:
    """Law 3."""
    for name in bench.names:
        logits = bench.run(Replace(bench.own[1]).at(name))
        yield bench.scale.finding(3, name, logits, bench.plain, bench.exactly(name))


_DECIDES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("embed",), "resid_pre"),
    (("resid_pre",), "q"),
    (("resid_pre",), "v"),
    (("q",), "rot_q"),
    (("k",), "rot_k"),
    (("attn_scores",), "pattern"),
    (("pattern", "v"), "z"),
    (("rot_q", "rot_k", "v"), "z"),
    (("q", "k", "v"), "z"),
    (("z",), "attn_out"),
    (("resid_pre", "attn_out"), "resid_mid"),
    (("resid_mid",), "mlp_out"),
    (("router_logits",), "expert_weights"),
    (("resid_mid", "router_logits"), "mlp_out"),
    (("resid_mid", "expert_weights", "router_logits"), "mlp_out"),
    (("mlp_post",), "mlp_out"),
    (("resid_mid", "mlp_out"), "resid_post"),
    (("resid_pre", "mixer_out", "mlp_out"), "resid_post"),
)
"""What is decided by what, within a block: with the first replaced by the donor's, the second is the donor's."""


def decides(bench: Bench) -> Iterator[Finding]:
    """Law 4."""
    logits, cache = bench.donor
    for given, decided in _DECIDES:
        if bench.has(*given, decided):
            edits = [Replace(cache).at(name) for name in given]
            _, got = bench.model.run_with_cache(bench.tokens, sites=decided, edits=edits)
            layers = range(bench.model.n_layers) if decided != "resid_pre" else (0,)
            for layer in layers:
                what = f"{' and '.join(given)} decide {Site(decided, layer)}"
                yield bench.scale.finding(4, what, got[decided, layer], cache[decided, layer], bench.scale.close)
    for name in ("resid_pre", "resid_mid", "resid_post"):
        for layer in cache.layers(name):
            got = bench.run(Replace(cache).at(name, layer=layer))
            yield bench.scale.finding(4, f"{Site(name, layer)} decides the logits", got, logits, 0.0)
    for name in ("embed", "final_norm"):
        got = bench.run(Replace(cache).at(name))
        yield bench.scale.finding(4, f"{name} decides the logits", got, logits, 0.0)


def forward_only(bench: Bench) -> Iterator[Finding]:
    """Law 5. The edit must also show at its own position, or at a later one."""
    middle = bench.tokens.shape[1] // 2
    for name in bench.names:
        logits = bench.run(Replace(bench.donor[1]).at(name, pos=middle))
        before = bench.plain[:, :middle]
        yield bench.scale.finding(5, f"{name}, before", logits[:, :middle], before, bench.scale.close)
        same = mx.array_equal(logits[:, middle:], bench.plain[:, middle:]).item()
        yield Finding(5, f"{name}, shows", float(bool(same)), 0.0)


class _Planned(Exception):
    """Raised on purpose."""


def _fail(activation: mx.array, site: Site) -> mx.array:
    raise _Planned


def restored(bench: Bench) -> Iterator[Finding]:
    """Law 6."""
    before = [type(module) for module in bench.model.model.modules()]
    for name in bench.names:
        layer = bench.model.n_layers // 2 if SITES[name].layered else None
        try:
            bench.run(Apply(_fail).at(name, layer=layer))
        except _Planned:
            raised = 1.0
        else:
            raised = 0.0
        after = [type(module) for module in bench.model.model.modules()]
        changed = sum(a is not b for a, b in zip(before, after, strict=True))
        yield Finding(6, f"{name}, classes", float(changed) + (1.0 - raised), 0.0)
    logits = bench.model.model(bench.tokens)
    yield bench.scale.finding(6, "logits afterwards", logits, bench.plain, 0.0)


def heads(bench: Bench) -> Iterator[Finding]:
    """Law 7."""
    if not bench.has("pattern", "v", "z"):
        return
    for layer in range(bench.model.n_layers):
        yield from _patterns(bench, layer)
    yield from _heads_apart(bench)


def _patterns(bench: Bench, layer: int) -> Iterator[Finding]:
    cache, where = bench.own[1], str(Site("pattern", layer))
    pattern, values, z = (cache[name, layer].astype(mx.float32) for name in ("pattern", "v", "z"))
    sums_of_rows = pattern.sum(axis=-1)
    close = bench.scale.close
    yield bench.scale.finding(7, f"{where}, rows sum to 1", sums_of_rows, mx.ones_like(sums_of_rows), close)
    future = mx.triu(mx.abs(pattern), 1)
    yield Finding(7, f"{where}, causal", float(mx.max(future).item()), 0.0)
    by_query_head = mx.repeat(values, pattern.shape[1] // values.shape[2], axis=2).swapaxes(1, 2)
    made = (pattern @ by_query_head).swapaxes(1, 2)
    yield bench.scale.finding(7, f"{where} and v make z", made, z, close)


def _heads_apart(bench: Bench) -> Iterator[Finding]:
    """A head without its pattern is a head without its z, in what attention adds; and the others keep theirs."""
    zero, layer = Ablate("zero"), 0
    n_heads = bench.own[1]["z", layer].shape[2]
    for head in range(n_heads):
        by_z, by_pattern = (zero.at(name, layer=layer, head=head) for name in ("z", "pattern"))
        got, wanted = (
            bench.model.run_with_cache(bench.tokens, sites=("z", "attn_out"), edits=[edit])[1]
            for edit in (by_pattern, by_z)
        )
        where = f"head {head} of {Site('pattern', layer)}"
        yield bench.scale.finding(
            7, where, got["attn_out", layer], wanted["attn_out", layer], bench.exactly("pattern") + bench.scale.close
        )
        others = [h for h in range(n_heads) if h != head]
        kept = bench.own[1]["z", layer][:, :, mx.array(others)] if others else None
        if kept is not None:
            got_others = wanted["z", layer][:, :, mx.array(others)]
            yield bench.scale.finding(7, f"{where}, the others", got_others, kept, bench.exactly("pattern"))


def split(bench: Bench) -> Iterator[Finding]:
    """Law 9."""
    cut = bench.tokens.shape[1] // 2
    prompt_cache = make_prompt_cache(bench.model.model)
    parts = [
        bench.model.run_with_cache(tokens, sites=bench.model.sites, prompt_cache=prompt_cache)
        for tokens in (bench.tokens[:, :cut], bench.tokens[:, cut:])
    ]
    logits = mx.concatenate([part[0] for part in parts], axis=1)
    yield bench.scale.finding(9, "logits", logits, bench.plain, bench.scale.close)
    for site in bench.model.sites:
        first, second = (part[1][site] for part in parts)
        whole = bench.own[1][site]
        if site.name in _REWRITTEN:
            got, wanted = _held_keys(second, whole[:, :, cut:])
            yield bench.scale.finding(9, str(site), got, wanted, bench.scale.close)
        else:
            both = mx.concatenate([first, second], axis=pos_axis(site))
            yield bench.scale.finding(9, str(site), both, whole, bench.scale.close)


def _held_keys(got: mx.array, wanted: mx.array) -> tuple[mx.array, mx.array]:
    """Scores or patterns of the second part, over the keys that its cache holds, with what is masked made 0 in both.

    A rotating cache holds only the keys of its window, the last ones; those before must be masked in the whole.
    """
    missing = max(0, wanted.shape[-1] - got.shape[-1])
    shown = mx.pad(got, [(0, 0)] * 3 + [(missing, 0)])
    low = 0.9 * float(mx.finfo(wanted.dtype).min)
    return mx.where(shown > low, shown, 0), mx.where(wanted > low, wanted, 0)


ALL: tuple[Law, ...] = (watching, sums, own_value, decides, forward_only, restored, heads, split)
"""Every law, in order."""
