"""The effect of one changed score on a softmax over keys, in closed form."""

import mlx.core as mx

LARGE = 0.5
"""The weight of a key above which the closed form may lose digits. At most one key of a row is above it."""

_OVERFLOW = 80.0
"""No exponent in float32 is above this; a key whose score grows by so much has all of the weight."""

_SMALLEST = 1.2e-38
"""The smallest number that float32 holds with all of its digits."""


def effect_of_each_key(scores: mx.array, new_scores: mx.array, pattern: mx.array, gradient: mx.array) -> mx.array:
    """What each key's new score does to a metric, through the exact softmax of its row, if it alone changes.

    With weight p, change d of the score and gradient g of the pattern: `p e (g - mean) / (1 + p e)`, where
    `e = exp(d) - 1` and `mean` is the row's sum of p times g. Sinks and masks need no care: their share is in p.

    Args:
        scores: After scale, soft-cap and mask. Shape `(batch, head, query_pos, key_pos)`.
        new_scores: The changed ones. The same shape.
        pattern: The softmax of `scores`, perhaps with a sink. The same shape.
        gradient: Of each metric by the pattern. Shape `(metric, batch, head, query_pos, key_pos)`.
    Returns:
        In float32, and precise where the pattern is `LARGE` at most: near p = 1 and e = -1, `1 + p e` has no digits
        left. The shape of `gradient`.
    Source:
        Kramár et al. 2024, https://arxiv.org/abs/2403.00745, whose correction for keys this is.
    """
    scores, new_scores, pattern = (array.astype(mx.float32) for array in (scores, new_scores, pattern))
    gradient = gradient.astype(mx.float32)
    peak = mx.maximum(pattern.max(axis=-1, keepdims=True), _SMALLEST)
    log_total = scores.max(axis=-1, keepdims=True) - mx.log(peak)
    change = new_scores - scores
    # A weight that rounds to 0 may still grow: so a large change does not start from it.
    from_scores = mx.exp(mx.minimum(new_scores - log_total, _OVERFLOW)) - pattern
    added = mx.where(mx.abs(change) < 1, pattern * mx.expm1(change), from_scores)
    mean = (pattern * gradient).sum(axis=-1, keepdims=True)
    return (added / (1 + added)) * (gradient - mean)
