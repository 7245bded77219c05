"""How much memory a pass takes, roughly: enough to keep one within bounds."""

from dataclasses import dataclass

import mlx.core as mx

from mlx_patch.errors import KindError, ValueRefusedError
from mlx_patch.sweeps._plan import Bounds
from mlx_patch.sweeps._planned import Group, Pass
from mlx_patch.sweeps._setup import Setup

_STREAMS = 12
"""Arrays as wide as the stream, or their like, that live at once: what a block reads, writes and makes between."""

_HEAD = 64
"""The usual width of a head."""


@dataclass(frozen=True)
class Footprint:
    """The sizes of a model that say what a pass takes.

    Attributes:
        d_model: The width of the stream.
        d_vocab: The rows of the unembedding.
        itemsize: Bytes of one number of the stream.
        heads: Attention heads, if scores are written out; 0 where a fused kernel makes none.
        past: Bytes that one position of one row takes in one block's prompt cache.
        read: Positions whose logits are read; None is all.
    """

    d_model: int
    d_vocab: int
    itemsize: int
    heads: int
    past: int
    read: int | None

    def __call__(self, group: Group, one: Pass) -> int:
        """Bytes that a pass takes beside the weights."""
        rows, new = len(one.cells) * group.batch, group.length - one.start
        stream = rows * new * self.d_model * self.itemsize * _STREAMS
        scores = 2 * rows * self.heads * new * group.length * 4
        past = 2 * rows * group.length * self.past if one.start else 0
        read = min(new, new if self.read is None else self.read)
        logits = 3 * rows * read * self.d_vocab * 4
        return stream + scores + past + logits


def device_budget() -> int | None:
    """Bytes that a pass may take on this device: half of what is left of it. None where the device does not say."""
    about = mx.device_info()
    whole = about.get("max_recommended_working_set_size") or about.get("memory_size")
    if not isinstance(whole, int):
        return None
    return max(0, whole - mx.get_active_memory()) // 2


def bounds_of(memory: int | None) -> Bounds:
    """How large passes may get.

    Args:
        memory: Bytes that a pass may take beside the weights, if one cell does not take more; None for what the device
            has to spare.
    Raises:
        KindError: It is no whole number.
        ValueRefusedError: It is less than 1.
    """
    if memory is None:
        return Bounds(memory=device_budget())
    if isinstance(memory, bool) or not isinstance(memory, int):
        raise KindError(f"`memory` must be a whole number of bytes. Got {memory!r}. Write 4 * 2**30 for 4 GiB.")
    if memory < 1:
        raise ValueRefusedError(
            f"`memory` must be 1 byte or more. Got {memory}. Leave it out for half of what the device has left."
        )
    return Bounds(memory=memory)


def footprint(setup: Setup) -> Footprint:
    """The sizes of a sweep's model, as far as they are known without looking inside it."""
    layout, at = setup.model.layout, [reading.at for reading in setup.readings]
    width = layout.d_model * layout.n_streams
    written_out = not mx.metal.is_available() and not mx.cuda.is_available()
    return Footprint(
        d_model=width,
        d_vocab=layout.d_vocab,
        itemsize=4,
        heads=width // _HEAD if written_out else 0,
        past=2 * width * 4,
        read=None if None in at else max(len(one) for one in at if one is not None),
    )
