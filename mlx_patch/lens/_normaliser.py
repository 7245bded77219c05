"""Normalised logits: the logarithm of the sum of exponentials, log-probabilities, and how far two are apart."""

import mlx.core as mx
import numpy as np

_ROWS = 8
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
    room = np.empty((_ROWS, d_vocab), np.float32)
    begins = range(0, len(rows), _ROWS)
    sums = [_of_rows(rows[begin : begin + _ROWS], room) for begin in begins]
    return mx.array(np.concatenate(sums).reshape(outer_shape))


def log_probs(logits: mx.array) -> mx.array:
    """Log-probabilities of logits in float32. Shape `(..., d_vocab)`."""
    return logits - log_normaliser(logits)[..., None]


def probabilities(logits: mx.array) -> mx.array:
    """The softmax of logits in float32, by numpy where MLX is slow. Shape `(..., d_vocab)`."""
    if mx.default_device() != mx.Device(mx.cpu):
        return mx.softmax(logits, axis=-1)
    *outer_shape, d_vocab = logits.shape
    rows = np.array(logits).reshape(-1, d_vocab)
    rows -= rows.max(axis=-1, keepdims=True)
    np.exp(rows, out=rows)
    rows /= rows.sum(axis=-1, keepdims=True)
    return mx.array(rows.reshape(*outer_shape, d_vocab))


def divergence(expected: mx.array, actual: mx.array) -> mx.array:
    """KL(expected || actual) in nats, of log-probabilities of shape `(..., d_vocab)`. Shape `(...)`.

    A token that is impossible in the first has no share.
    """
    return mx.where(mx.isinf(expected), 0, mx.exp(expected) * (expected - actual)).sum(axis=-1)


def _of_rows(rows: np.ndarray, room: np.ndarray) -> np.ndarray:
    """The logarithms for some rows; `room` is overwritten, for to ask for memory takes as long as to compute."""
    largest = rows.max(axis=-1, keepdims=True)
    shifted = room[: len(rows)]
    np.subtract(rows, largest, out=shifted)
    np.exp(shifted, out=shifted)
    return np.log(shifted.sum(axis=-1)) + largest[:, 0]
