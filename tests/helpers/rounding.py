"""Numbers that are the same bit for bit where sums have one order, and elsewhere as near as orders of sums are.

MLX's own loops give a row of a product the same bits whatever stands beside it. A BLAS has other kernels for other
numbers of rows, and takes the sums of a row in another order in each.
"""

from functools import cache

import mlx.core as mx
import numpy as np

from mlx_patch.laws import bench_of, largest_deviation

TOKENS = mx.array([[11, 48, 85, 26, 63, 4, 41, 78]])
OTHER = mx.array([[7, 2, 31, 90, 15, 66, 58, 23]])
LENGTHS, COPIES = (3, 5, 6, 8), (2, 3)
"""Of prompts, alone and in batches."""


@cache
def one_order():
    """Whether a row of a float32 product has the same bits alone and beside others, in the sizes of the tiny models."""
    return all(_alone_as_beside(width, other) for width in (16, 32, 64, 96, 128, 256) for other in (64, 96, 256))


def _alone_as_beside(width, other):
    """With weights as `nn.Linear` has them; where they are not transposed, OpenBLAS has one order too."""
    rows = mx.random.normal((24, width), key=mx.random.key(0))
    weights = mx.random.normal((other, width), key=mx.random.key(1))
    whole = rows @ weights.T
    return all(mx.array_equal(rows[:n] @ weights.T, whole[:n]).item() for n in range(1, 24))


def tolerance(model):
    """How far numbers inside a model may be off, as a fraction of the largest.

    It is 0 where sums have one order. Elsewhere it is what the laws allow: `sqrt(n) * eps` for each block, of sums of
    `n` products; and as the model amplifies what is rounded, 16 times what a batch does to the bare model's own logits.
    """
    if one_order():
        return 0.0
    bench = bench_of(model)
    per_blocks = bench.scale.reordered(bench.longest_sum, model.n_layers)
    return max(per_blocks, bench.scale.beside(_moved(model.model)))


def _moved(raw):
    """How far a batch moves the bare model's logits, as a fraction of the largest. Models differ, and prompts do."""
    if id(raw) not in _measured:
        _measured[id(raw)] = raw, _largest_move(raw)
    return _measured[id(raw)][1]


_measured = {}
"""By `id` of the model, which is kept so that no other gets its number."""


def _largest_move(raw):
    prompts = [tokens[:, :length] for tokens in (TOKENS, OTHER) for length in LENGTHS]
    return max(
        largest_deviation(raw(mx.concatenate([prompt] * n))[:1], raw(prompt)) for prompt in prompts for n in COPIES
    )


def same(found, expected, model, largest=None):
    """Whether two arrays are the same, to that tolerance.

    Args:
        found: An array.
        expected: Another.
        model: The model that made both.
        largest: Of what size the numbers are; the largest entry of `expected` by default. See `largest_logit`.
    """
    found, expected = mx.array(found), mx.array(expected)
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        return False
    if largest is None:
        largest = mx.max(mx.abs(expected)).item() if expected.size else 0.0
    allowed = tolerance(model) * largest
    found, expected = (np.array(array.astype(mx.float32)) for array in (found, expected))
    return bool(np.all((found == expected) | (np.abs(found - expected) <= allowed)))


def skips(result, cells):
    """Whether a sweep ran all but so many cells, those that change no bit. Where sums have orders it may run more."""
    skipped = result.provenance["skipped"]
    return skipped == cells if one_order() else 0 <= skipped <= cells


def largest_logit(model, tokens=TOKENS):
    """The size of the numbers of which a metric is a difference: the largest logit of a prompt."""
    return mx.max(mx.abs(model.model(mx.array(tokens)))).item()
