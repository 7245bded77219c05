"""Functions of an activation that read more than one entry of it: what a person may write for `Apply`.

Each is asked for its site's axes, so that it reads positions, keys or rows wherever they are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from mlx_patch.interventions import Apply, pos_axis
from mlx_patch.sites import Site

Function = Callable[[mx.array, Site], mx.array]


def _reverse_positions(activation: mx.array, site: Site) -> mx.array:
    along = pos_axis(site)
    order = mx.arange(activation.shape[along] - 1, -1, -1)
    return mx.take(activation, order, axis=along)


def _sum_so_far(activation: mx.array, site: Site) -> mx.array:
    return mx.cumsum(activation, axis=pos_axis(site)) * 0.5


def _mean_of_positions(activation: mx.array, site: Site) -> mx.array:
    return mx.mean(activation, axis=pos_axis(site), keepdims=True)


def _away_from_the_first(activation: mx.array, site: Site) -> mx.array:
    first = mx.take(activation, mx.array([0]), axis=pos_axis(site))
    return activation - 0.5 * first


def _weighed_by_position(activation: mx.array, site: Site) -> mx.array:
    along = pos_axis(site)
    weights = 1.0 + 0.1 * mx.arange(activation.shape[along])
    return activation * weights.reshape([-1 if axis == along else 1 for axis in range(activation.ndim)])


def _by_how_many_positions(activation: mx.array, site: Site) -> mx.array:
    return activation * (1.0 + 1.0 / activation.shape[pos_axis(site)])


def _away_from_other_rows(activation: mx.array, site: Site) -> mx.array:
    return activation - 0.5 * mx.mean(activation, axis=0, keepdims=True)


def _squared(activation: mx.array, site: Site) -> mx.array:
    return activation * mx.abs(activation)


OF_POSITIONS: dict[str, Function] = {
    "reverse_positions": _reverse_positions,
    "sum_so_far": _sum_so_far,
    "mean_of_positions": _mean_of_positions,
    "away_from_the_first": _away_from_the_first,
    "weighed_by_position": _weighed_by_position,
    "by_how_many_positions": _by_how_many_positions,
    "away_from_other_rows": _away_from_other_rows,
    "squared": _squared,
}
"""Functions for sites with positions, by name."""


def _knock_out(key: int, pattern: mx.array, site: Site) -> mx.array:
    kept = mx.where(mx.arange(pattern.shape[-1]) == key, 0.0, pattern)
    return kept / (mx.sum(kept, axis=-1, keepdims=True) + 1e-6)


def _knock_out_scores(key: int, scores: mx.array, site: Site) -> mx.array:
    return mx.where(mx.arange(scores.shape[-1]) == key, mx.finfo(scores.dtype).min, scores)


def _reverse_keys(pattern: mx.array, site: Site) -> mx.array:
    return pattern[..., ::-1]


def _weighed_by_key(pattern: mx.array, site: Site) -> mx.array:
    return pattern * (1.0 + 0.1 * mx.arange(pattern.shape[-1]))


def _scores_by_key(scores: mx.array, site: Site) -> mx.array:
    shown = scores > 0.9 * float(mx.finfo(scores.dtype).min)
    keys = mx.arange(scores.shape[-1])
    return mx.where(shown, scores + 0.05 * keys * keys, scores)  # what is linear in the key may hide an offset of keys


def _by_how_many_keys(pattern: mx.array, site: Site) -> mx.array:
    return pattern * (1.0 + 1.0 / pattern.shape[-1])


def _uniform(pattern: mx.array, site: Site) -> mx.array:
    return mx.full(pattern.shape, 1.0 / pattern.shape[-1])


def _diagonal_twice(pattern: mx.array, site: Site) -> mx.array:
    """Twice what a query gives the key that has its own number among the keys. Of whole patterns."""
    same = mx.arange(pattern.shape[-2])[:, None] == mx.arange(pattern.shape[-1])
    return mx.where(same, 2.0 * pattern, pattern)


@dataclass(frozen=True)
class OfKeys:
    """A function for `pattern` or `attn_scores`.

    Attributes:
        name: What it is called.
        at: The sites that it makes sense at.
        fn: The function; where `keyed`, of a key's absolute position first.
        keyed: Whether it is made for one key.
    """

    name: str
    at: tuple[str, ...]
    fn: Callable[..., mx.array]
    keyed: bool = False

    def made(self, key: int) -> Apply:
        """The intervention, for a key."""
        if not self.keyed:
            return Apply(self.fn, name=self.name)
        return Apply(partial(self.fn, key), name=f"{self.name}({key})")


OF_KEYS = (
    OfKeys("knock_out", ("pattern",), _knock_out, keyed=True),
    OfKeys("knock_out_scores", ("attn_scores",), _knock_out_scores, keyed=True),
    OfKeys("reverse_keys", ("pattern",), _reverse_keys),
    OfKeys("weighed_by_key", ("pattern",), _weighed_by_key),
    OfKeys("scores_by_key", ("attn_scores",), _scores_by_key),
    OfKeys("by_how_many_keys", ("pattern",), _by_how_many_keys),
    OfKeys("uniform", ("pattern",), _uniform),
    OfKeys("diagonal_twice", ("pattern",), _diagonal_twice),
)
"""Functions for sites whose last axis is the keys."""
