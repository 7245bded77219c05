"""The logits of a few tokens alone, where a run has shown that a product with their rows gives the model's numbers."""

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from mlx_patch.architectures import Layout, sharding
from mlx_patch.model._unembedding import Head, head_matrices

LogitsOf = Callable[[mx.array], mx.array]
"""From the stream behind the final norm to the logits of some tokens, unevaluated. The last axis is the tokens'."""

_ROUNDING = 1e-5
"""How far a product may be from the model's logits, as a fraction of the largest: what float32 rounds."""

_SPREAD = 32
"""Tokens all over the vocabulary that are tried as well."""


def logits_of_tokens(layout: Layout, ids: Sequence[int], normed: mx.array, logits: mx.array) -> LogitsOf | None:
    """How to compute the logits of some tokens without those of all others; None if a run does not prove it exact.

    The product is compared with the run's own logits, also of tokens beside these, the one with the largest among
    them: a soft-cap shows there. What half types and packed weights round differs, so both are left to the model.

    Args:
        layout: The model's layout.
        ids: The tokens.
        normed: The stream behind the final norm in a run. Shape `(batch, pos, d_model)`.
        logits: The run's logits there. Shape `(batch, pos, d_vocab)`.
    """
    d_vocab = layout.d_vocab
    if sharding(layout.model) is not None or logits.shape[-1] != d_vocab:
        return None
    tried = mx.array([*ids, *_tokens_to_try(logits)])
    right = logits[..., tried]
    for module, weight in head_matrices(layout.model, d_vocab):
        dtypes = {weight.dtype, normed.dtype, logits.dtype}
        if dtypes != {mx.float32} or weight.shape[-1] != normed.shape[-1]:
            continue
        head = Head(weight, module, 1.0, d_vocab)
        product = _product(head, tried, normed)
        scale = _ratio(mx.sum(product * right), mx.sum(product * product))
        difference = mx.abs(scale * product - right)
        if _ratio(difference.max(), mx.abs(right).max()) <= _ROUNDING:
            wanted_ids = mx.array([*ids])
            return lambda stream: scale * _product(head, wanted_ids, stream)
    return None


def _tokens_to_try(logits: mx.array) -> list[int]:
    """Tokens all over the vocabulary, and the one with the largest logit."""
    d_vocab = logits.shape[-1]
    largest = int(np.array(mx.argmax(mx.abs(logits))))
    step = max(1, d_vocab // _SPREAD)
    return [largest % d_vocab, *range(0, d_vocab, step)]


def _ratio(above: mx.array, below: mx.array) -> float:
    return float(np.array(above / below))


def _product(head: Head, ids: mx.array, normed: mx.array) -> mx.array:
    return normed @ head.rows(ids).T + head.bias(ids)
