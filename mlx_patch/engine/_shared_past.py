"""Attention of many rows to one past that they share, without a copy of that past for each of them.

Rows that go on from one prompt cache have its keys and values in common. Scores with these are one matrix product for
all rows; scores with each row's own keys are put beside them, and one softmax runs over both. It is the same sum in
another order, and in float32 whatever the model's dtype, so that rounding is at most that of the model's own kernel.
"""

import mlx.core as mx

from mlx_patch.engine._attention import attention_weights, masked
from mlx_patch.engine._snapshot import Shared


def worth_it(queries: mx.array, keys: mx.array, values: mx.array, cache: object) -> bool:
    """Whether the rows share a past, and scores take less memory than copies of that past."""
    if not isinstance(cache, Shared) or cache.recent is None:
        return False
    joined_keys, joined_values = cache.joined
    if keys is not joined_keys or values is not joined_values:
        return False
    past_keys, _ = cache.past
    _, heads, length, d_head = queries.shape
    groups = past_keys.shape[1]
    return heads // groups * length <= d_head


def attend_shared(
    queries: mx.array, cache: Shared, scale: float, mask: mx.array | str | None, sinks: mx.array | None
) -> mx.array:
    """The output of attention for rows that share a past.

    Args:
        queries: Shape `(rows, head, query_pos, d_head)`; the rows of the past come over and over.
        cache: The keys and values of the past, and each row's recent ones.
        scale: The factor of the scores.
        mask: None, "causal", or an array over all keys, of bool (True attends) or one that is added.
        sinks: A score for each head that takes part in the softmax and attends to nothing. Shape `(head,)`.
    Returns:
        Shape `(rows, head, query_pos, d_value)`.
    """
    assert cache.recent is not None
    rows, heads, length, _ = queries.shape
    past_keys, past_values = (array.astype(mx.float32) for array in cache.past)
    recent_keys, recent_values = (array.astype(mx.float32)[:, :, None] for array in cache.recent)
    batch, groups, past_length, _ = past_keys.shape
    by_head = (rows, heads, length, -1)
    scaled = queries.astype(mx.float32) * scale
    scaled = scaled.reshape(rows, groups, heads // groups, length, -1)

    past_scores = _unfolded(_folded(scaled, batch) @ past_keys.swapaxes(-1, -2), scaled.shape)
    recent_scores = scaled @ recent_keys.swapaxes(-1, -2)
    scores = mx.concatenate([past_scores, recent_scores], axis=-1)
    pattern = attention_weights(masked(scores.reshape(by_head), mask), sinks)
    pattern = pattern.reshape(scores.shape)

    from_past = _unfolded(_folded(pattern[..., :past_length], batch) @ past_values, scaled.shape)
    gathered = from_past + pattern[..., past_length:] @ recent_values
    return gathered.reshape(by_head).astype(queries.dtype)


def _folded(array: mx.array, batch: int) -> mx.array:
    """`(times * batch, group, repeat, pos, n)` as `(batch, group, times * repeat * pos, n)`."""
    rows, groups, _, _, size = array.shape
    by_time = array.reshape(rows // batch, batch, *array.shape[1:])
    return by_time.transpose(1, 2, 0, 3, 4, 5).reshape(batch, groups, -1, size)


def _unfolded(array: mx.array, like: tuple[int, ...]) -> mx.array:
    """The reverse of `_folded`, to a shape that is `like` but for the last axis."""
    rows, groups, repeats, length, _ = like
    batch, size = array.shape[0], array.shape[-1]
    by_time = array.reshape(batch, groups, rows // batch, repeats, length, size)
    return by_time.transpose(2, 0, 1, 3, 4, 5).reshape(rows, groups, repeats, length, size)
