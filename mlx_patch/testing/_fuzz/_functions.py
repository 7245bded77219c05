"""Functions for `Apply` that read more than one entry of an activation, as a user may write them.

Each looks up the axes of its site, and so reads positions, keys or rows of any site.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from mlx_patch.errors import ShapeError
from mlx_patch.interventions import Apply, pos_axis
from mlx_patch.sites import Site

Function = Callable[[mx.array, Site], mx.array]


def _position_axis(activation: mx.array, site: Site) -> int:
    """The axis of positions; a module that a model calls token by token reads none."""
    axis = pos_axis(site)
    if axis >= activation.ndim:
        raise ShapeError(f"`site` must have an axis of positions. Got {activation.shape} at {site}. Choose another.")
    return axis


def _reverse_positions(activation: mx.array, site: Site) -> mx.array:
    axis = _position_axis(activation, site)
    order = mx.arange(activation.shape[axis] - 1, -1, -1)
    return mx.take(activation, order, axis=axis)


def _sum_so_far(activation: mx.array, site: Site) -> mx.array:
    return mx.cumsum(activation, axis=_position_axis(activation, site)) * 0.5


def _mean_of_positions(activation: mx.array, site: Site) -> mx.array:
    return mx.mean(activation, axis=_position_axis(activation, site), keepdims=True)


def _away_from_the_first(activation: mx.array, site: Site) -> mx.array:
    first = mx.take(activation, mx.array([0]), axis=_position_axis(activation, site))
    return activation - 0.5 * first


def _weighed_by_position(activation: mx.array, site: Site) -> mx.array:
    axis = _position_axis(activation, site)
    weights = 1.0 + 0.1 * mx.arange(activation.shape[axis])
    shape = [1] * activation.ndim
    shape[axis] = -1
    return activation * weights.reshape(shape)


def _by_how_many_positions(activation: mx.array, site: Site) -> mx.array:
    return activation * (1.0 + 1.0 / activation.shape[_position_axis(activation, site)])


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
    is_key = mx.arange(pattern.shape[-1]) == key
    other_keys = mx.where(is_key, 0.0, pattern)
    return other_keys / (mx.sum(other_keys, axis=-1, keepdims=True) + 1e-6)


def _knock_out_scores(key: int, scores: mx.array, site: Site) -> mx.array:
    is_key = mx.arange(scores.shape[-1]) == key
    return mx.where(is_key, mx.finfo(scores.dtype).min, scores)


def _reverse_keys(pattern: mx.array, site: Site) -> mx.array:
    return pattern[..., ::-1]


def _weighed_by_key(pattern: mx.array, site: Site) -> mx.array:
    return pattern * (1.0 + 0.1 * mx.arange(pattern.shape[-1]))


def _scores_by_key(scores: mx.array, site: Site) -> mx.array:
    is_visible = scores > 0.9 * float(mx.finfo(scores.dtype).min)
    keys = mx.arange(scores.shape[-1])
    growth = 0.05 * keys * keys  # a softmax would not see keys numbered from another start in a linear term
    return mx.where(is_visible, scores + growth, scores)


def _by_how_many_keys(pattern: mx.array, site: Site) -> mx.array:
    return pattern * (1.0 + 1.0 / pattern.shape[-1])


def _uniform(pattern: mx.array, site: Site) -> mx.array:
    return mx.full(pattern.shape, 1.0 / pattern.shape[-1])


def _diagonal_twice(pattern: mx.array, site: Site) -> mx.array:
    """A pattern with its diagonal doubled: query n and key n."""
    queries = mx.arange(pattern.shape[-2])
    keys = mx.arange(pattern.shape[-1])
    return mx.where(queries[:, None] == keys, 2.0 * pattern, pattern)


@dataclass(frozen=True)
class KeyFunction:
    """A function for `pattern` or `attn_scores`.

    Attributes:
        name: The function's name.
        at: The sites for which it is meant.
        fn: The function; where `keyed`, its first argument is a key's absolute position.
        keyed: Whether it acts on one key.
    """

    name: str
    at: tuple[str, ...]
    fn: Callable[..., mx.array]
    keyed: bool = False

    def intervention(self, key: int) -> Apply:
        """The intervention, for a key."""
        if not self.keyed:
            return Apply(self.fn, name=self.name)
        return Apply(partial(self.fn, key), name=f"{self.name}({key})")


OF_KEYS = (
    KeyFunction("knock_out", ("pattern",), _knock_out, keyed=True),
    KeyFunction("knock_out_scores", ("attn_scores",), _knock_out_scores, keyed=True),
    KeyFunction("reverse_keys", ("pattern",), _reverse_keys),
    KeyFunction("weighed_by_key", ("pattern",), _weighed_by_key),
    KeyFunction("scores_by_key", ("attn_scores",), _scores_by_key),
    KeyFunction("by_how_many_keys", ("pattern",), _by_how_many_keys),
    KeyFunction("uniform", ("pattern",), _uniform),
    KeyFunction("diagonal_twice", ("pattern",), _diagonal_twice),
)
"""Functions for sites whose last axis is the keys."""
