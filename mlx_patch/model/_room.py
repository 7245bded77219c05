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


def refuse_unlearned(layout: Layout, end: int, what: str = "tokens", remedy: str = "Shorten the prompt.") -> None:
    """Refuse positions behind the last one that a model has learned.

    Args:
        layout: The model's layout.
        end: How many positions there will be, with what a prompt cache holds and with what is generated.
        what: The argument that says so.
        remedy: What to do about it, a sentence.
    Raises:
        ValueRefusedError: There would be more than the model has.
    """
    if layout.n_positions and end > layout.n_positions:
        raise ValueRefusedError(
            f"`{what}` must stay within the {layout.n_positions} positions that the model has learned. "
            f"Got {end} in all. {remedy}"
        )


def refuse_no_room(layout: Layout, tokens: mx.array, offset: int) -> None:
    """Refuse a run whose attention scores do not fit into the memory of this machine.

    Raises:
        ValueRefusedError: They do not; the message says what they take.
    """
    if mx.default_device() != mx.Device(mx.cpu):
        return
    batch, length = tokens.shape
    needed, there = batch * _heads(layout.model) * length * (offset + length) * _SCORE, _memory()
    if there and needed > there and any("z" in has for has in layout.points):
        raise ValueRefusedError(
            f"`tokens` must leave room for attention. Got {length} positions, whose scores take "
            f"{needed / 2**30:.0f} GiB a layer on a CPU, of {there / 2**30:.0f} GiB of memory. "
            "Run them in pieces, `model.run(piece, prompt_cache=...)`, or choose fewer."
        )


def _heads(model: Any) -> int:
    """Attention heads, as the model's own arguments say; 1 where they do not."""
    args = getattr(model, "args", None)
    for holder in (args, getattr(args, "text_config", None)):
        heads = (
            holder.get("num_attention_heads") if isinstance(holder, dict) else getattr(holder, "num_attention_heads", 1)
        )
        if isinstance(heads, int) and heads > 1:
            return heads
    return 1


def _memory() -> int:
    """Bytes of the machine's memory; 0 where nobody knows."""
    names = getattr(os, "sysconf_names", {})
    known = "SC_PAGE_SIZE" in names and "SC_PHYS_PAGES" in names
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if known else 0
