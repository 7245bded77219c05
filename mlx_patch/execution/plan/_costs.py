"""Estimates of the memory that a pass takes, and of what generated text costs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache

from mlx_patch.architectures import Layout, can_be_split
from mlx_patch.engine import can_truncate
from mlx_patch.errors import KindError, ValueRefusedError, shown
from mlx_patch.execution.plan._packing import PIECE, Bounds
from mlx_patch.execution.plan._plan import Pass, PromptGroup
from mlx_patch.execution.readouts import Readout

_STREAMS = 6
"""Arrays as wide as the stream that live at once: what a block reads and writes, its norms, queries and `z`."""


_HIDDEN = 4
"""Arrays as wide as the widest layer of a block that live at once: what an MLP multiplies, and their product."""


_EXPERTS_RUN = ("top_k", "num_experts_per_tok")
"""What mlx_lm calls the number of experts that a token goes through."""


_HEAD = 64
"""The usual width of a head."""


_piece: ContextVar[int] = ContextVar("piece", default=PIECE)


@contextmanager
def pieces_of(positions: int) -> Iterator[None]:
    """A context in which at most so many positions of a prompt run at once.

    The numbers must not depend on it. So laws cut short prompts as sweeps cut long ones.
    """
    before = _piece.set(positions)
    try:
        yield
    finally:
        _piece.reset(before)


@dataclass(frozen=True)
class Footprint:
    """The sizes of a model that say what a pass takes.

    Attributes:
        d_model: The width of the stream.
        d_hidden: The width of a block's widest layer; of experts, of all that a token goes through together.
        d_vocab: The rows of the unembedding.
        itemsize: Bytes of one number of the stream.
        heads: Attention heads, if scores are written out; 0 where a fused kernel makes none.
        past: Bytes that one position of one row takes in one block's prompt cache, where rows do not share a past.
        read: Positions whose logits are read; None is all.
    """

    d_model: int
    d_hidden: int
    d_vocab: int
    itemsize: int
    heads: int
    past: int
    read: int | None

    def __call__(self, group: PromptGroup, pass_: Pass) -> int:
        """Bytes that a pass takes beside the weights."""
        rows = len(pass_.cells) * group.batch
        n_positions = group.length - pass_.start
        past = 0
        if pass_.start:
            past = 2 * rows * group.length * self.past
        return self.block(rows, n_positions, group.length) + past + self.logits(rows, n_positions)

    def block(self, rows: int, n_positions: int, length: int) -> int:
        """Bytes that one block takes for some positions of rows of a length."""
        numbers_a_position = self.d_model * _STREAMS + self.d_hidden * _HIDDEN
        stream = rows * n_positions * numbers_a_position * self.itemsize
        scores = 2 * rows * self.heads * n_positions * length * 4
        return stream + scores

    def logits(self, rows: int, n_positions: int) -> int:
        """Bytes that the logits of rows take, of which some positions are computed."""
        n_read = n_positions
        if self.read is not None:
            n_read = min(n_positions, self.read)
        return 3 * rows * n_read * self.d_vocab * 4


def device_budget() -> int | None:
    """Bytes that a pass may take on this device: half of what is left of it. None where the device does not say."""
    device_info = mx.device_info()
    total = device_info.get("max_recommended_working_set_size") or device_info.get("memory_size")
    if not isinstance(total, int):
        return None
    return max(0, total - mx.get_active_memory()) // 2


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
        return Bounds(memory=device_budget(), piece=_piece.get())
    if isinstance(memory, bool) or not isinstance(memory, int):
        raise KindError(f"`memory` must be a whole number of bytes. Got {shown(memory)}. Write 4 * 2**30 for 4 GiB.")
    if memory < 1:
        raise ValueRefusedError(
            f"`memory` must be 1 byte or more. Got {memory}. Leave it out for half of what the device has left."
        )
    return Bounds(memory=memory, piece=_piece.get())


def footprint(layout: Layout, readouts: Sequence[Readout], backwards: bool = False) -> Footprint:
    """The sizes of a sweep's model, as far as they are known without looking inside it.

    Args:
        layout: The model's layout.
        readouts: What the metrics read.
        backwards: Whether gradients are taken, for which no kernel of attention is fused.
    """
    width = layout.d_model * layout.n_streams
    has_fused_attention = not backwards and (mx.metal.is_available() or mx.cuda.is_available())
    shares_past = not can_be_split(layout) or can_truncate(make_prompt_cache(layout.model))
    return Footprint(
        d_model=width,
        d_hidden=max(map(_widest, layout.blocks)),
        d_vocab=layout.d_vocab,
        itemsize=4,
        heads=0 if has_fused_attention else width // _HEAD,
        past=0 if shares_past else 2 * width * 4,
        read=_most_positions_read(readouts),
    )


def _most_positions_read(readouts: Sequence[Readout]) -> int | None:
    """The largest number of positions whose logits one readout takes; None where one takes all."""
    counts: list[int] = []
    for readout in readouts:
        if readout.at is None:
            return None
        counts.append(len(readout.at))
    return max(counts)


def _widest(block: nn.Module) -> int:
    """The width of what a block's widest layer returns; a matrix for each expert returns that of all that run."""
    n_experts = _experts_a_token(block)
    widths = [0]
    for module in block.modules():
        weight = module.get("weight")
        if not isinstance(weight, mx.array):
            continue
        if weight.ndim == 2:
            widths.append(weight.shape[-2])
        elif weight.ndim == 3:  # a matrix for each expert
            widths.append(weight.shape[-2] * n_experts)
    return max(widths)


def _experts_a_token(block: nn.Module) -> int:
    """The number of experts of a block that one token goes through; 1 where it has none."""
    numbers = [getattr(module, name, None) for module in block.modules() for name in _EXPERTS_RUN]
    return max((number for number in numbers if isinstance(number, int)), default=1)
