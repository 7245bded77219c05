"""Attention of many rows to one past that they share, without a copy of that past for each of them.

Rows that go on from one prompt cache have its keys and values in common. Scores with these are one matrix product for
all rows; scores with each row's own keys are put beside them, and one softmax runs over both. It is the same sum in
another order, and in float32 whatever the model's dtype, so that rounding is at most that of the model's own kernel.
"""

import mlx.core as mx

from mlx_patch.engine._attention import attention_weights, masked
from mlx_patch.engine._snapshot import Shared


def worth_it(queries: mx.array, keys: mx.array, values: mx.array, cache: object) -> bool:
    """Whether these are the keys and values of rows with a shared past, and scores take less room than copies of it."""
    if not isinstance(cache, Shared) or cache.own is None or not (keys is cache.given[0] and values is cache.given[1]):
        return False
    groups, d_head = cache.past[0].shape[1], queries.shape[-1]
    return queries.shape[1] // groups * queries.shape[2] <= d_head


def attend_shared(
    queries: mx.array, cache: Shared, scale: float, mask: mx.array | str | None, sinks: mx.array | None
) -> mx.array:
    """What attention returns for rows that share a past.

    Args:
        queries: Shape `(rows, head, query_pos, d_head)`; the rows of the past come over and over.
        cache: The keys and values of the past, and each row's own.
        scale: What scores are multiplied by.
        mask: None, "causal", or an array over all keys, of bool (True attends) or one that is added.
        sinks: A score for each head that takes part in the softmax and attends to nothing. Shape `(head,)`.
    Returns:
        Shape `(rows, head, query_pos, d_value)`.
    """
    assert cache.own is not None
    rows, heads, length, _ = queries.shape
    keys, values = (past.astype(mx.float32) for past in cache.past)
    own_keys, own_values = (own.astype(mx.float32)[:, :, None] for own in cache.own)
    batch, groups, before, _ = keys.shape
    asked = (queries.astype(mx.float32) * scale).reshape(rows, groups, heads // groups, length, -1)
    shared = _unfolded(_folded(asked, batch) @ keys.swapaxes(-1, -2), asked.shape)
    scores = mx.concatenate([shared, asked @ own_keys.swapaxes(-1, -2)], axis=-1)
    pattern = attention_weights(masked(scores.reshape(rows, heads, length, -1), mask), sinks).reshape(scores.shape)
    seen = _unfolded(_folded(pattern[..., :before], batch) @ values, asked.shape)
    out = seen + pattern[..., before:] @ own_values
    return out.reshape(rows, heads, length, -1).astype(queries.dtype)


def _folded(array: mx.array, batch: int) -> mx.array:
    """`(times * batch, group, repeat, pos, n)` as `(batch, group, times * repeat * pos, n)`."""
    rows, groups, _, _, size = array.shape
    apart = array.reshape(rows // batch, batch, *array.shape[1:]).transpose(1, 2, 0, 3, 4, 5)
    return apart.reshape(batch, groups, -1, size)


def _unfolded(array: mx.array, like: tuple[int, ...]) -> mx.array:
    """The reverse of `_folded`, to a shape that is `like` but for the last axis."""
    rows, groups, repeats, length, _ = like
    batch, size = array.shape[0], array.shape[-1]
    apart = array.reshape(batch, groups, rows // batch, repeats, length, size).transpose(2, 0, 1, 3, 4, 5)
    return apart.reshape(rows, groups, repeats, length, size)
