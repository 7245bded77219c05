"""The largest logits of each row, and their tokens."""

import mlx.core as mx
import numpy as np

_ROWS = 8
"""Rows of logits at once, so that they stay in a processor's cache."""

_SHARE = 64
"""Tokens in a group, of which only the largest logit is compared with those of other groups."""


def largest_logits(logits: mx.array, k: int) -> tuple[mx.array, mx.array]:
    """The tokens with the largest logits, the largest first, and these logits. Each of shape `(..., k)`.

    On a CPU, of equal logits the smaller token comes first, and numpy finds them: MLX sorts there for as long as the
    unembedding itself takes.

    Args:
        logits: In float32. Shape `(..., d_vocab)`.
        k: How many, from 1 to d_vocab.
    """
    if mx.default_device() != mx.Device(mx.cpu):
        ids = mx.argpartition(-logits, k - 1, axis=-1)[..., :k]
        values = mx.take_along_axis(logits, ids, axis=-1)
        order = mx.argsort(-values, axis=-1)
        return mx.take_along_axis(ids, order, axis=-1), mx.take_along_axis(values, order, axis=-1)
    *outer_shape, d_vocab = logits.shape
    rows = np.array(logits, copy=False).reshape(-1, d_vocab)
    begins = range(0, len(rows), _ROWS)
    chunks = (rows[begin : begin + _ROWS] for begin in begins)
    ids = np.concatenate([_of_rows(chunk, k) for chunk in chunks])
    values = np.take_along_axis(rows, ids, axis=-1)
    shape = (*outer_shape, k)
    return mx.array(ids.reshape(shape)), mx.array(values.reshape(shape))


def _of_rows(rows: np.ndarray, k: int) -> np.ndarray:
    """The tokens with the largest logits. Shape `(row, k)`."""
    n_rows, d_vocab = rows.shape
    n_groups = d_vocab // _SHARE
    if 2 * k > n_groups:
        return np.argsort(-rows, axis=-1, kind="stable")[:, :k]
    # Group g has the tokens g, g + n_groups, ...: so a maximum over groups runs along contiguous numbers. The k largest
    # logits lie in the k groups with the largest maxima, or among the tokens at the end that make no whole group.
    grouped = rows[:, : n_groups * _SHARE].reshape(n_rows, _SHARE, n_groups)
    maxima = grouped.max(axis=1)
    groups = np.argpartition(-maxima, k - 1, axis=-1)[:, :k]
    members = groups[:, :, None] + n_groups * np.arange(_SHARE)
    ungrouped = np.arange(n_groups * _SHARE, d_vocab)
    beyond = np.broadcast_to(ungrouped, (n_rows, len(ungrouped)))
    candidates = np.concatenate([members.reshape(n_rows, -1), beyond], axis=1)
    candidates.sort(axis=1)
    values = np.take_along_axis(rows, candidates, axis=-1)
    order = np.argsort(-values, axis=-1, kind="stable")[:, :k]
    ids = np.take_along_axis(candidates, order, axis=-1)
    threshold = np.take_along_axis(values, order[:, -1:], axis=-1)
    # Equal logits may lie in further groups, whose tokens may be smaller.
    for row in np.flatnonzero((maxima >= threshold).sum(axis=-1) > k):
        tied = np.flatnonzero(rows[row] >= threshold[row])
        order = np.argsort(-rows[row, tied], kind="stable")
        ids[row] = tied[order[:k]]
    return ids
