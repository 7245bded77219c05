"""What an intervention returned, made to fit: shapes, dtypes, half types."""

import mlx.core as mx

from mlx_patch.errors import KindError, ShapeError


def fitted(value: object, own: mx.array, intervention: object) -> mx.array:
    """What an intervention returned, in the shape and dtype of what it was given.

    Raises:
        KindError: It is not an array of real numbers, or it would put fractions among integers.
        ShapeError: Its shape does not broadcast to that of `own`.
    """
    if not isinstance(value, mx.array):
        raise KindError(f"`{intervention!r}` must return an mx.array. Got {type(value).__name__}.")
    if not is_real(value.dtype):
        raise KindError(f"`{intervention!r}` must return real numbers. Got {value.dtype}.")
    if mx.issubdtype(value.dtype, mx.floating) and not mx.issubdtype(own.dtype, mx.floating):
        raise KindError(f"`{intervention!r}` must return integers where it was given {own.dtype}. Got {value.dtype}.")
    if not broadcasts(value.shape, own.shape):
        raise ShapeError(
            f"`{intervention!r}` must return the shape that it was given, {own.shape}, or one that broadcasts to it. "
            f"Got {value.shape}."
        )
    return mx.broadcast_to(value, own.shape).astype(own.dtype)


def is_real(dtype: mx.Dtype) -> bool:
    """Whether the numbers are real ones: neither truth values nor complex."""
    return mx.issubdtype(dtype, mx.floating) or mx.issubdtype(dtype, mx.integer)


def wide(array: mx.array) -> mx.array:
    """The array in float32 where it is of a half type: arithmetic is done there and rounded once."""
    return array.astype(mx.float32) if array.dtype in (mx.float16, mx.bfloat16) else array


def broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether an array of one shape broadcasts to another without adding to it."""
    if len(shape) > len(to):
        return False
    return all(size in (1, wanted) for size, wanted in zip(reversed(shape), reversed(to), strict=False))
