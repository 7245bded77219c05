"""A metric for mlx_patch, published by an entry point."""

import mlx.core as mx


def top_margin(logits: mx.array) -> mx.array:
    """Logit of the likeliest token minus that of the second, at the last position, in nats.

    Args:
        logits: Unnormalised log-probabilities. Shape `(batch, pos, d_vocab)`.
    Returns:
        The lead, 0 for a tie. Shape `(batch,)`.
    Example:
        >>> top_margin(mx.array([[[1.0, 5.0, 3.0]]])).tolist()
        [2.0]
    """
    ordered = mx.sort(logits[:, -1], axis=-1)
    return ordered[:, -1] - ordered[:, -2]
