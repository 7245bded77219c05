"""Checks and casts of an intervention's result: shapes, dtypes, half types."""

import mlx.core as mx

from mlx_patch.errors import KindError, ShapeError


def fitted(value: object, activation: mx.array, intervention: object) -> mx.array:
    """An intervention's result in the shape and dtype of the activation that it was called with.

    Raises:
        KindError: It is not an array of real numbers, or it would put fractions among integers.
        ShapeError: Its shape does not broadcast to that of `activation`.
    """
    dtype, shape = activation.dtype, activation.shape
    if not isinstance(value, mx.array):
        raise KindError(f"`{intervention!r}` must return an mx.array. Got {type(value).__name__}.")
    if not is_real(value.dtype):
        raise KindError(f"`{intervention!r}` must return real numbers. Got {value.dtype}.")
    if mx.issubdtype(value.dtype, mx.floating) and not mx.issubdtype(dtype, mx.floating):
        raise KindError(f"`{intervention!r}` must return integers for an activation of {dtype}. Got {value.dtype}.")
    if not broadcasts(value.shape, shape):
        raise ShapeError(
            f"`{intervention!r}` must return the shape it received, {shape}, or one that broadcasts to it. Got "
            f"{value.shape}."
        )
    return mx.broadcast_to(value, shape).astype(dtype)


def is_real(dtype: mx.Dtype) -> bool:
    """Whether the numbers are real ones: neither truth values nor complex."""
    return mx.issubdtype(dtype, mx.floating) or mx.issubdtype(dtype, mx.integer)


def wide(array: mx.array) -> mx.array:
    """The array in float32 where it is of a half type: arithmetic is done there and rounded once."""
    if array.dtype in (mx.float16, mx.bfloat16):
        return array.astype(mx.float32)
    return array


def broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether an array of a shape broadcasts to the target shape without adding to it."""
    if len(shape) > len(target):
        return False
    sizes = zip(reversed(shape), reversed(target), strict=False)
    return all(size in (1, target_size) for size, target_size in sizes)
