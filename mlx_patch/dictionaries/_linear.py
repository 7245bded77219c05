"""Products with the rows of a few features, and sums of such rows."""

import mlx.core as mx

_FEW = 16


def products(activation: mx.array, rows: mx.array) -> mx.array:
    """Products of activations with rows, in float32.

    With few rows they are sums of products and no matrix product: some devices round the latter to 10 bits, and on
    most the numbers of a token depend on how many tokens are multiplied with it.

    Args:
        activation: Float32. Shape `(..., width)`.
        rows: Shape `(feature, width)`.
    Returns:
        Shape `(..., feature)`.
    """
    rows = rows.astype(mx.float32)
    if rows.shape[0] > _FEW:
        return activation @ rows.T
    return mx.stack([mx.sum(activation * row, axis=-1) for row in rows], axis=-1)


def combination(values: mx.array, rows: mx.array) -> mx.array:
    """The sum of rows, each times its value, in float32; without a matrix product where they are few.

    Args:
        values: Float32. Shape `(..., feature)`.
        rows: Shape `(feature, width)`.
    Returns:
        Shape `(..., width)`.
    """
    rows = rows.astype(mx.float32)
    n_rows = rows.shape[0]
    if n_rows > _FEW:
        return values @ rows
    total = values[..., :1] * rows[0]
    for number in range(1, n_rows):
        total = total + values[..., number : number + 1] * rows[number]
    return total
