"""Law 9: a prompt split over a prompt cache gives what the raw model gives for the split, and what one run gives.

The raw model itself may give other logits for a split prompt: a BLAS may sum in another order for 4 rows than for 8. So
the raw model runs first. With captures it must give the same logits bit for bit; and its activations may deviate from
those of one run in proportion to the deviation of the raw model's logits.
"""

from collections.abc import Iterator

import mlx.core as mx

from mlx_patch.errors import SelectionError
from mlx_patch.interventions import Apply, Scale, pos_axis
from mlx_patch.laws._bench import REWRITTEN, Bench
from mlx_patch.laws._report import Finding, largest_deviation
from mlx_patch.sites import Site

_CARRIED = ("embed", "k", "rot_k", "v", "pattern", "mixer_out")
"""Sites that are edited on both sides of the cut: some that a prompt cache holds, and some that it does not."""


def split(bench: Bench) -> Iterator[Finding]:
    """Law 9, of models that take a prompt cache."""
    if not bench.caches:
        return
    compare, prompt_cache = bench.scale.finding, bench.prompt_cache()
    yield compare(9, "logits of the bare model", bench.in_parts, bench.plain, bench.scale.half_the_digits)
    first_tokens, second_tokens = bench.parts
    first_logits, first = bench.model.run_with_cache(first_tokens, sites=bench.model.sites, prompt_cache=prompt_cache)
    second_logits, second = bench.model.run_with_cache(
        second_tokens, sites=bench.model.sites, prompt_cache=prompt_cache
    )
    logits = mx.concatenate([first_logits, second_logits], axis=1)
    yield compare(9, "logits", logits, bench.in_parts, bench.exactly("pattern"))
    tolerance = bench.scale.beside(largest_deviation(bench.in_parts, bench.plain))
    for site in bench.model.sites:
        expected = bench.captured_run[1][site]
        if site.name in REWRITTEN:
            actual, expected = _cached_keys(second[site], expected[:, :, bench.middle :])
        else:
            actual = mx.concatenate([first[site], second[site]], axis=pos_axis(site))
        yield compare(9, str(site), actual, expected, tolerance)
    yield from (_edited(bench, name, tolerance) for name in _CARRIED if bench.has(name))
    yield from (_edited_by_key(bench, name, tolerance) for name in REWRITTEN if bench.has(name))


def _edited(bench: Bench, name: str, tolerance: float) -> Finding:
    """An edit on both sides of the cut: the first is in the prompt cache, the second acts in the second pass."""
    cut, layers = bench.middle, bench.captured_run[1].layers(name)
    layer = None
    if layers:
        layer = layers[len(layers) // 2]
    edit = Scale(0.5).at(name, layer=layer, pos=(cut - 1, cut))
    with bench.model.editing(edit):
        logits = bench.raw_in_parts()
    return bench.scale.finding(9, f"logits, {name} edited", logits, bench.run(edit), tolerance)


def _edited_by_key(bench: Bench, name: str, tolerance: float) -> Finding:
    """An edit behind the cut that depends on the keys' absolute positions, whichever of them the cache holds.

    If a sliding window has dropped keys, the engine may refuse the edit: a refusal is not a wrong number.
    """
    edit = Apply(by_key).at(name, pos=bench.tokens.shape[1] - 1)
    try:
        with bench.model.editing(edit):
            logits = bench.raw_in_parts()
    except SelectionError:
        return Finding(9, f"logits, {name} edited by key, refused", 0.0, 0.0)
    return bench.scale.finding(9, f"logits, {name} edited by key", logits, bench.run(edit), tolerance)


def by_key(scores: mx.array, site: Site) -> mx.array:
    """Scores, or a pattern, that grow with the key's absolute position; masked entries stay masked."""
    keys = mx.arange(scores.shape[-1])
    if site.plain.name == "pattern":
        return scores * (1.0 + 0.1 * keys)
    # Numbering the keys from another start shifts a linear term by a constant, which a softmax ignores; so: quadratic.
    growth = 0.05 * keys * keys
    is_masked = scores <= 0.9 * float(mx.finfo(scores.dtype).min)
    return mx.where(is_masked, scores, scores + growth)


def _cached_keys(actual: mx.array, expected: mx.array) -> tuple[mx.array, mx.array]:
    """Scores or patterns of the second pass and of one run, over the same keys, with 0 where they are masked.

    A rotating cache holds only the keys of its window, the last ones. The keys before must be masked in one run.
    """
    n_dropped = max(0, expected.shape[-1] - actual.shape[-1])
    padded = mx.pad(actual, [(0, 0)] * 3 + [(n_dropped, 0)])
    lowest = 0.9 * float(mx.finfo(expected.dtype).min)
    unmasked = mx.where(padded > lowest, padded, 0)
    return unmasked, mx.where(expected > lowest, expected, 0)
