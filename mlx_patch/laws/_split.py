"""Law 9: a prompt split over a prompt cache gives what the bare model gives for it so split, and what the whole gives.

How far a model itself is from the whole when its prompt is split is its own affair: a BLAS that multiplies 4 rows may
sum in another order than for 8. So the bare model, with no tap in it, is asked first. Watched, it must give the same
logits bit for bit; and what is seen in it may be apart from the whole in proportion to what its own logits are.
"""

from collections.abc import Iterator

import mlx.core as mx

from mlx_patch.errors import SelectionError
from mlx_patch.interventions import Apply, Scale, pos_axis
from mlx_patch.laws._bench import REWRITTEN, Bench
from mlx_patch.laws._report import Finding, largest_deviation
from mlx_patch.sites import Site

_CARRIED = ("embed", "k", "rot_k", "v", "pattern", "mixer_out")
"""What is edited on both sides of the cut: what a prompt cache holds, and some that it does not."""


def split(bench: Bench) -> Iterator[Finding]:
    """Law 9, of models that take a prompt cache."""
    if not bench.caches:
        return
    finding, cut, prompt_cache = bench.scale.finding, bench.middle, bench.prompt_cache()
    yield finding(9, "logits of the bare model", bench.in_parts, bench.plain, bench.scale.half_the_digits)
    parts = [
        bench.model.run_with_cache(tokens, sites=bench.model.sites, prompt_cache=prompt_cache) for tokens in bench.parts
    ]
    logits = mx.concatenate([part[0] for part in parts], axis=1)
    yield finding(9, "logits", logits, bench.in_parts, bench.exactly("pattern"))
    tolerance = bench.scale.beside(largest_deviation(bench.in_parts, bench.plain))
    for site in bench.model.sites:
        whole, (first, second) = bench.own[1][site], (part[1][site] for part in parts)
        if site.name in REWRITTEN:
            yield finding(9, str(site), *_held_keys(second, whole[:, :, cut:]), tolerance)
        else:
            yield finding(9, str(site), mx.concatenate([first, second], axis=pos_axis(site)), whole, tolerance)
    yield from (_edited(bench, name, tolerance) for name in _CARRIED if bench.has(name))
    yield from (_edited_by_key(bench, name, tolerance) for name in REWRITTEN if bench.has(name))


def _edited(bench: Bench, name: str, tolerance: float) -> Finding:
    """An edit on both sides of the cut: the first is carried over in the cache, the second finds its place."""
    cut, layers = bench.middle, bench.own[1].layers(name)
    edit = Scale(0.5).at(name, layer=layers[len(layers) // 2] if layers else None, pos=(cut - 1, cut))
    with bench.model.editing(edit):
        logits = bench.raw_in_parts()
    return bench.scale.finding(9, f"logits, {name} edited", logits, bench.run(edit), tolerance)


def _edited_by_key(bench: Bench, name: str, tolerance: float) -> Finding:
    """An edit behind the cut that goes by the keys' absolute positions, whatever the cache holds of them.

    Behind a window that has dropped keys the engine may refuse it, which is no wrong number.
    """
    edit = Apply(by_key).at(name, pos=bench.tokens.shape[1] - 1)
    try:
        with bench.model.editing(edit):
            logits = bench.raw_in_parts()
    except SelectionError:
        return Finding(9, f"logits, {name} edited by key, refused", 0.0, 0.0)
    return bench.scale.finding(9, f"logits, {name} edited by key", logits, bench.run(edit), tolerance)


def by_key(scores: mx.array, site: Site) -> mx.array:
    """Scores, or a pattern, that are more by what is the key's absolute position; what is masked stays masked."""
    keys = mx.arange(scores.shape[-1])
    if site.plain.name == "pattern":
        return scores * (1.0 + 0.1 * keys)
    added = 0.05 * keys * keys  # of what is more by as much at each key, a softmax sees nothing
    return mx.where(scores > 0.9 * float(mx.finfo(scores.dtype).min), scores + added, scores)


def _held_keys(got: mx.array, wanted: mx.array) -> tuple[mx.array, mx.array]:
    """Scores or patterns of the second part, over the keys that its cache holds, with what is masked made 0 in both.

    A rotating cache holds only the keys of its window, the last ones; those before must be masked in the whole.
    """
    missing = max(0, wanted.shape[-1] - got.shape[-1])
    shown = mx.pad(got, [(0, 0)] * 3 + [(missing, 0)])
    low = 0.9 * float(mx.finfo(wanted.dtype).min)
    return mx.where(shown > low, shown, 0), mx.where(wanted > low, wanted, 0)
