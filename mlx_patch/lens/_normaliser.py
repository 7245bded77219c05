"""The logarithm of the sum of exponentials, over a vocabulary."""

import mlx.core as mx
import numpy as np

_ROWS = 16
"""Rows of logits at once, so that they stay in a processor's cache."""


def log_normaliser(logits: mx.array) -> mx.array:
    """What is taken away from logits to make log-probabilities. Shape of `logits` without its last axis.

    On a CPU it is numpy's: MLX takes exponentials one by one there, as long as the unembedding itself.

    Args:
        logits: In float32. Shape `(..., d_vocab)`.
    """
    if mx.default_device() != mx.Device(mx.cpu):
        return mx.logsumexp(logits, axis=-1)
    *outer_shape, d_vocab = logits.shape
    rows = np.array(logits, copy=False).reshape(-1, d_vocab)
    begins = range(0, len(rows), _ROWS)
    sums = [_of_rows(rows[begin : begin + _ROWS]) for begin in begins]
    return mx.array(np.concatenate(sums).reshape(outer_shape))


def _of_rows(rows: np.ndarray) -> np.ndarray:
    largest = rows.max(axis=-1, keepdims=True)
    sums = np.exp(rows - largest).sum(axis=-1)
    return np.log(sums) + largest[:, 0]
