"""The checks on logits, and the one place where they are indexed by position."""

import mlx.core as mx

from mlx_patch import arguments
from mlx_patch.errors import KindError, SelectionError, ShapeError, shown


def check_logits(logits: object, label: str) -> None:
    """Refuse logits that are not a floating array of three axes, none of them empty.

    Args:
        logits: The logits.
        label: Their name in a message.
    Raises:
        KindError: They are no array, or not floating.
        ShapeError: They have other axes, or an empty one.
    """
    if not isinstance(logits, mx.array):
        raise KindError(f"{label} must be an mx.array. Got {type(logits).__name__}. Convert it with `mx.array(...)`.")
    if logits.ndim != 3 or 0 in logits.shape:
        raise ShapeError(
            f"{label} must have shape (batch, pos, d_vocab), with no axis empty. Got {logits.shape}. "
            "Keep the axis of what you index: `logits[:, -1:]`."
        )
    if not mx.issubdtype(logits.dtype, mx.floating):
        raise KindError(f"{label} must be floating. Got {logits.dtype}. Give logits, not token ids.")


def read_position(logits: mx.array, pos: int) -> mx.array:
    """The logits at one position, in float32. Shape `(batch, d_vocab)`.

    Raises:
        SelectionError: The position is not there; MLX would read past the edge.
    """
    n_pos = logits.shape[1]
    if not -n_pos <= pos < n_pos:
        raise SelectionError(
            f"`pos` must index the {n_pos} positions of the logits. Got {pos}. "
            "Where only some positions were unembedded, count among those."
        )
    return logits[:, pos].astype(mx.float32)


def as_position(pos: object) -> int:
    """One position's number as an int.

    Raises:
        KindError: It is not a whole number.
    """
    if not arguments.is_whole(pos):
        raise KindError(
            f"`pos` must be the number of one position. Got {shown(pos)}. Make one metric for each position."
        )
    return arguments.whole_number("pos", pos)
