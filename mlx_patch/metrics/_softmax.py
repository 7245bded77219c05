"""Softmax over a vocabulary, in float32, with the sums that float32 needs.

MLX's CPU reductions add one term after the other. Over 150,000 terms that loses four of float32's seven digits: 2e-4
nats, more than many a divergence that is measured. Sums of sums of 512 keep six.
"""

import mlx.core as mx

_RUN = 512


def total(values: mx.array) -> mx.array:
    """The sum over the vocabulary. `(batch, d_vocab)` to `(batch,)`."""
    batch, d_vocab = values.shape
    padded = mx.pad(values, [(0, 0), (0, -d_vocab % _RUN)])
    return mx.sum(mx.sum(padded.reshape(batch, -1, _RUN), axis=-1), axis=-1)


def log_softmax(row: mx.array) -> mx.array:
    """Log-probabilities in nats. Shape `(batch, d_vocab)`."""
    shifted, rest = _shifted(row)
    return shifted - rest


def log_softmax_at(row: mx.array, ids: mx.array) -> mx.array:
    """Those of some tokens of each row, the same to the last bit, without the others'. `ids` and shape `(batch, n)`."""
    shifted, rest = _shifted(row)
    return mx.take_along_axis(shifted, ids, axis=-1) - rest


def softmax(row: mx.array) -> mx.array:
    """Probabilities. Shape `(batch, d_vocab)`."""
    return mx.exp(log_softmax(row))


def _shifted(row: mx.array) -> tuple[mx.array, mx.array]:
    """Logits that are 0 at most, and what is to be taken from each. Shapes `(batch, d_vocab)` and `(batch, 1)`."""
    shifted = row - mx.stop_gradient(mx.max(row, axis=-1, keepdims=True))
    return shifted, mx.log(total(mx.exp(shifted)))[:, None]
