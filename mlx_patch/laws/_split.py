"""Law 9: a prompt split over a prompt cache gives what the whole gives, edited or not."""

from collections.abc import Iterator

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from mlx_patch.interventions import Scale, pos_axis
from mlx_patch.laws._bench import REWRITTEN, Bench
from mlx_patch.laws._report import Finding
from mlx_patch.sites import Site

_CARRIED = ("embed", "k", "rot_k", "v", "pattern", "mixer_out")
"""What is edited on both sides of the cut: what a prompt cache holds, and some that it does not."""


def split(bench: Bench) -> Iterator[Finding]:
    """Law 9, of models that take a prompt cache."""
    if not bench.caches:
        return
    cut = bench.middle
    prompt_cache = make_prompt_cache(bench.model.model)
    parts = [
        bench.model.run_with_cache(tokens, sites=bench.model.sites, prompt_cache=prompt_cache)
        for tokens in (bench.tokens[:, :cut], bench.tokens[:, cut:])
    ]
    logits = mx.concatenate([part[0] for part in parts], axis=1)
    yield bench.scale.finding(9, "logits", logits, bench.plain, bench.scale.through(bench.model.n_layers))
    for site in bench.model.sites:
        first, second = (part[1][site] for part in parts)
        whole, tolerance = bench.own[1][site], bench.scale.through(_blocks_to(site, bench.model.n_layers))
        if site.name in REWRITTEN:
            got, wanted = _held_keys(second, whole[:, :, cut:])
            yield bench.scale.finding(9, str(site), got, wanted, tolerance)
        else:
            both = mx.concatenate([first, second], axis=pos_axis(site))
            yield bench.scale.finding(9, str(site), both, whole, tolerance)
    for name in _CARRIED:
        if bench.has(name):
            yield _edited(bench, name)


def _blocks_to(site: Site, n_layers: int) -> int:
    """How many blocks have been at work on a site."""
    if site.layer is None:
        return 1 if site.name == "embed" else n_layers
    return site.layer + 1


def _edited(bench: Bench, name: str) -> Finding:
    """An edit on both sides of the cut: the first is carried over in the cache, the second finds its place."""
    cut, layers = bench.middle, bench.own[1].layers(name)
    edit = Scale(0.5).at(name, layer=layers[len(layers) // 2] if layers else None, pos=(cut - 1, cut))
    prompt_cache = make_prompt_cache(bench.model.model)
    with bench.model.editing(edit):
        pieces = [bench.model.model(t, cache=prompt_cache) for t in (bench.tokens[:, :cut], bench.tokens[:, cut:])]
    logits, tolerance = mx.concatenate(pieces, axis=1), bench.scale.through(bench.model.n_layers)
    return bench.scale.finding(9, f"logits, {name} edited", logits, bench.run(edit), tolerance)


def _held_keys(got: mx.array, wanted: mx.array) -> tuple[mx.array, mx.array]:
    """Scores or patterns of the second part, over the keys that its cache holds, with what is masked made 0 in both.

    A rotating cache holds only the keys of its window, the last ones; those before must be masked in the whole.
    """
    missing = max(0, wanted.shape[-1] - got.shape[-1])
    shown = mx.pad(got, [(0, 0)] * 3 + [(missing, 0)])
    low = 0.9 * float(mx.finfo(wanted.dtype).min)
    return mx.where(shown > low, shown, 0), mx.where(wanted > low, wanted, 0)
