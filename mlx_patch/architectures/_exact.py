"""`keep_bits`: an edit that leaves a value alone leaves its bits alone, and gradients flow through it all the same."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx


def _chosen(raw: mx.array, new: mx.array, is_unchanged: mx.array) -> Any:
    return mx.where(is_unchanged, raw, new)


def _all_to_the_new(primals: Sequence[mx.array], cotangent: mx.array, output: mx.array) -> tuple[mx.array, ...]:
    """All of the gradient to the new values: the raw ones are these, with less rounding."""
    raw, _, is_unchanged = primals
    return mx.zeros_like(raw), cotangent, mx.zeros_like(is_unchanged)


_select = mx.custom_function(_chosen)
_select.vjp(_all_to_the_new)


def keep_bits(raw: mx.array, new: mx.array, is_unchanged: mx.array) -> mx.array:
    """New values; where nothing changed, the raw ones, bit for bit.

    `mx.where` alone would give an edit that happens to change nothing the gradient 0, though the next one does change
    something. Here the gradient is that of the new values everywhere.

    Args:
        raw: The values before the edit.
        new: The values after it, computed in a way that rounds. Shape and dtype of `raw`.
        is_unchanged: Where the edit changed nothing.
    """
    selected: Any = _select(raw, new, mx.stop_gradient(is_unchanged))
    return selected
