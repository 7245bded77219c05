"""How much memory a pass takes, roughly: enough to keep one within bounds."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache

from mlx_patch.architectures import Layout, can_be_split
from mlx_patch.engine import can_truncate
from mlx_patch.errors import KindError, ValueRefusedError
from mlx_patch.execution.plan._packing import PIECE, Bounds
from mlx_patch.execution.plan._plan import Pass, Plan, PromptGroup
from mlx_patch.execution.readouts import Readout
from mlx_patch.metrics import GenerateMatches, Metric


def generation_cost_bound(plan: Plan, metrics: Sequence[Metric]) -> int:
    """The token-layers that metrics take at most that let the model write, beside those of a plan's runs.

    Args:
        plan: Of these metrics, a cell a pass.
        metrics: The metrics.
    """
    rules = [one for one in metrics if isinstance(one, GenerateMatches)]
    steps = sum(max(1, rule.samples) * (rule.max_tokens - 1) for rule in rules)
    positions = 0
    for number, group in enumerate(plan.groups):
        starts = [one.start for one in plan.passes if one.group == number]
        whole = 0 if any(starts) else group.length  # else a run without metrics has all but the last position
        again = [whole or 1, *(group.length - start for start in starts)]
        positions += group.batch * sum(len(rules) * new + steps for new in again)
        positions += 0 if whole else group.batch * group.length
    return positions * plan.n_layers - plan.token_layers


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
    """A block in which prompts run so many positions at once, at most.

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

    def __call__(self, group: PromptGroup, one: Pass) -> int:
        """Bytes that a pass takes beside the weights."""
        rows, new = len(one.cells) * group.batch, group.length - one.start
        stream = rows * new * (self.d_model * _STREAMS + self.d_hidden * _HIDDEN) * self.itemsize
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
        return Bounds(memory=device_budget(), piece=_piece.get())
    if isinstance(memory, bool) or not isinstance(memory, int):
        raise KindError(f"`memory` must be a whole number of bytes. Got {memory!r}. Write 4 * 2**30 for 4 GiB.")
    if memory < 1:
        raise ValueRefusedError(
            f"`memory` must be 1 byte or more. Got {memory}. Leave it out for half of what the device has left."
        )
    return Bounds(memory=memory, piece=_piece.get())


def footprint(layout: Layout, readouts: Sequence[Readout]) -> Footprint:
    """The sizes of a sweep's model, as far as they are known without looking inside it."""
    at = [readout.at for readout in readouts]
    width = layout.d_model * layout.n_streams
    shares = not can_be_split(layout) or can_truncate(make_prompt_cache(layout.model))
    written_out = not mx.metal.is_available() and not mx.cuda.is_available()
    return Footprint(
        d_model=width,
        d_hidden=max(map(_widest, layout.blocks)),
        d_vocab=layout.d_vocab,
        itemsize=4,
        heads=width // _HEAD if written_out else 0,
        past=0 if shares else 2 * width * 4,
        read=None if None in at else max(len(one) for one in at if one is not None),
    )


def _widest(block: nn.Module) -> int:
    """The width of what a block's widest layer returns; a matrix for each expert returns that of all that run."""
    modules = block.modules()
    numbers = (getattr(module, name, None) for module in modules for name in _EXPERTS_RUN)
    together = max((number for number in numbers if isinstance(number, int)), default=1)
    shapes = [weight.shape for module in modules if isinstance(weight := module.get("weight"), mx.array)]
    return max(
        (shape[-2] * (together if len(shape) == 3 else 1) for shape in shapes if len(shape) in (2, 3)), default=0
    )
