"""Prompts that are too long: for the positions that a model has learned, or for the memory.

Behind the last row of a table of positions MLX reads whatever the memory holds there, without an error. Where the
scores of a layer, which its CPU backend makes all at once, do not fit into memory, it does not raise: the process ends.
A GPU's fused kernel makes no scores.
"""

import os
from typing import Any

import mlx.core as mx

from mlx_patch.architectures import Layout
from mlx_patch.errors import ValueRefusedError

_SCORE = 4  # bytes: scores are float32


def refuse_unlearned(layout: Layout, end: int, argument: str = "tokens", remedy: str = "Shorten the prompt.") -> None:
    """Refuse positions behind the last one that a model has learned.

    Args:
        layout: The model's layout.
        end: How many positions there will be, with what a prompt cache holds and with what is generated.
        argument: The name of the argument at fault.
        remedy: What to do about it, a sentence.
    Raises:
        ValueRefusedError: There would be more than the model has.
    """
    if layout.n_positions and end > layout.n_positions:
        raise ValueRefusedError(
            f"`{argument}` must stay within the {layout.n_positions} positions that the model has learned. Got {end} "
            f"in total. {remedy}"
        )


def refuse_no_room(layout: Layout, tokens: mx.array, offset: int) -> None:
    """Refuse a run whose attention scores do not fit into the memory of this machine.

    Raises:
        ValueRefusedError: They do not; the message says what they take.
    """
    if mx.default_device() != mx.Device(mx.cpu):
        return
    has_attention = any("z" in points for points in layout.points)
    batch, length = tokens.shape
    n_scores = batch * _n_heads(layout.model) * length * (offset + length)
    needed, memory = n_scores * _SCORE, _memory()
    if memory and needed > memory and has_attention:
        raise ValueRefusedError(
            f"`tokens` must leave memory for attention. Got {length} positions, whose scores take {needed / 2**30:.0f} "
            f"GiB per layer on a CPU with {memory / 2**30:.0f} GiB of memory. Run them in pieces, `model.run(piece, "
            "prompt_cache=...)`, or choose fewer."
        )


def _n_heads(model: Any) -> int:
    """The number of attention heads by the model's arguments; 1 if they do not hold it."""
    args = getattr(model, "args", None)
    for config in (args, getattr(args, "text_config", None)):
        if isinstance(config, dict):
            n_heads = config.get("num_attention_heads")
        else:
            n_heads = getattr(config, "num_attention_heads", 1)
        if isinstance(n_heads, int) and n_heads > 1:
            return n_heads
    return 1


def _memory() -> int:
    """Bytes of the machine's memory; 0 if the system does not report it."""
    names = getattr(os, "sysconf_names", {})
    if "SC_PAGE_SIZE" not in names or "SC_PHYS_PAGES" not in names:
        return 0
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
