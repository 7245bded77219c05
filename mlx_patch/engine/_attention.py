"""Attention written out, so that its scores and its pattern can be seen and changed.

The order of operations is that of MLX's own fallback of `mx.fast.scaled_dot_product_attention`: on the CPU the two
are equal bit for bit, on Metal the fused kernel differs by rounding.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx

Emit = Callable[[str, mx.array], mx.array]


def attend(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    scale: float,
    mask: mx.array | str | None,
    sinks: mx.array | None,
    emit: Emit,
) -> mx.array:
    """What attention returns, with its scores and its pattern passed through `emit`.

    Args:
        queries: Shape `(batch, head, query_pos, d_head)`.
        keys: Shape `(batch, kv_head, key_pos, d_head)`.
        values: Shape `(batch, kv_head, key_pos, d_value)`.
        scale: What the scores are multiplied by.
        mask: None, "causal", an array of bool (True attends) or one that is added.
        sinks: A score for each head that takes part in the softmax and attends to nothing. Shape `(head,)`.
        emit: Called with "attn_scores" and "pattern", arrays `(batch, head, query_pos, key_pos)`.
    Returns:
        Shape `(batch, head, query_pos, d_value)`.
    """
    batch, heads, length, _ = queries.shape
    groups = keys.shape[1]
    grouped = (queries * scale).reshape(batch, groups, heads // groups, length, -1)
    scores = grouped @ keys[:, :, None].swapaxes(-1, -2)
    scores = masked(scores.reshape(batch, heads, length, -1), mask)
    pattern = emit("pattern", attention_weights(emit("attn_scores", scores), sinks))
    out = pattern.reshape(batch, groups, heads // groups, length, -1) @ values[:, :, None]
    return out.reshape(batch, heads, length, -1)


def masked(scores: mx.array, mask: mx.array | str | None) -> mx.array:
    """Scores with the mask applied; what is masked gets the lowest finite number, as in MLX's own attention."""
    if mask is None:
        return scores
    if isinstance(mask, str):
        queries, keys = scores.shape[-2:]
        mask = mx.arange(keys - queries, keys)[:, None] >= mx.arange(keys)
    if mask.dtype == mx.bool_:
        return mx.where(mask, scores, mx.array(mx.finfo(scores.dtype).min, scores.dtype))
    return scores + mask.astype(scores.dtype)


def attention_weights(scores: mx.array, sinks: mx.array | None) -> mx.array:
    """The pattern of scores, over all keys and a sink that takes part and attends to nothing."""
    if sinks is None:
        return mx.softmax(scores, axis=-1, precise=True)
    column = mx.broadcast_to(sinks.astype(scores.dtype)[:, None, None], (*scores.shape[:-1], 1))
    return mx.softmax(mx.concatenate([column, scores], axis=-1), axis=-1, precise=True)[..., 1:]


def dequantized(array: Any, cache: Any) -> mx.array:
    """Keys or values as one array, where a quantised KV cache gives them as packed values, scales and biases."""
    if isinstance(array, mx.array):
        return array
    return mx.dequantize(*array, group_size=cache.group_size, bits=cache.bits)
