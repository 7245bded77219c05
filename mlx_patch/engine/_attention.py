"""Attention in explicit steps, so that its scores and pattern can be read and edited.

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
    """The output of attention, with its scores and its pattern passed through `emit`.

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
    by_group = (batch, groups, heads // groups, length, -1)
    grouped_queries = (queries * scale).reshape(by_group)
    grouped_keys = keys[:, :, None].swapaxes(-1, -2)
    grouped_scores = grouped_queries @ grouped_keys
    scores = masked(grouped_scores.reshape(batch, heads, length, -1), mask)
    scores = emit("attn_scores", scores)
    pattern = emit("pattern", attention_weights(scores, sinks))
    gathered = pattern.reshape(by_group) @ values[:, :, None]
    return gathered.reshape(batch, heads, length, -1)


def masked(scores: mx.array, mask: mx.array | str | None) -> mx.array:
    """Scores with the mask applied; masked ones become the lowest finite number, as in MLX's own attention."""
    if mask is None:
        return scores
    if isinstance(mask, str):
        queries, keys = scores.shape[-2:]
        query_positions = mx.arange(keys - queries, keys)
        mask = query_positions[:, None] >= mx.arange(keys)
    if mask.dtype == mx.bool_:
        lowest = mx.array(mx.finfo(scores.dtype).min, scores.dtype)
        return mx.where(mask, scores, lowest)
    return scores + mask.astype(scores.dtype)


def attention_weights(scores: mx.array, sinks: mx.array | None) -> mx.array:
    """The pattern of scores: a softmax over all keys and a sink, whose own share is left out."""
    if sinks is None:
        return mx.softmax(scores, axis=-1, precise=True)
    by_head = sinks.astype(scores.dtype)[:, None, None]
    column = mx.broadcast_to(by_head, (*scores.shape[:-1], 1))
    with_sink = mx.concatenate([column, scores], axis=-1)
    return mx.softmax(with_sink, axis=-1, precise=True)[..., 1:]


def dequantized(array: Any, cache: Any) -> mx.array:
    """Keys or values as one array, where a quantised KV cache gives them as packed values, scales and biases."""
    if isinstance(array, mx.array):
        return array
    return mx.dequantize(*array, group_size=cache.group_size, bits=cache.bits)
