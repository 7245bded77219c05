"""Prompts that are too long, or too many: for the positions that a model has learned, or for the memory.

Behind the last row of a table of positions MLX reads whatever the memory holds there, without an error. Where a run
does not fit into memory, it does not raise either: the process ends. A GPU's fused kernel makes no scores.
"""

import os
from collections.abc import Sequence
from typing import Any, cast

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_patch.architectures import Layout
from mlx_patch.errors import ValueRefusedError
from mlx_patch.sites import Site

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


def refuse_no_room(
    layout: Layout, tokens: mx.array, offset: int = 0, n_read: int = 0, captured: Sequence[Site] = (), n_kept: int = 0
) -> None:
    """Refuse a run that does not fit into the memory of this machine, whatever the order of what it computes.

    What is counted is taken at once: of one block the stream and its neurons, or its attention scores; or, at the end,
    the logits that are read and the streams that are kept. It is a lower bound, so that no run is refused which fits.

    Args:
        layout: The model's layout.
        tokens: Shape `(batch, pos)`.
        offset: The positions before, in a prompt cache.
        n_read: The positions of each prompt that are unembedded.
        captured: The sites that are kept; those of the stream count.
        n_kept: The positions of each prompt that are kept.
    Raises:
        ValueRefusedError: It does not; the message says what takes most.
    """
    if mx.default_device() != mx.Device(mx.cpu):
        return
    memory = _memory()
    batch, length = tokens.shape
    n_streams = sum(site.axes[-1:] == ("d_model",) for site in captured)
    numbers = {
        "the stream and the neurons of a layer": batch * length * (2 * layout.d_model + _n_neurons(layout)),
        "logits and captures": batch * (n_read * layout.d_vocab + n_kept * n_streams * layout.d_model),
    }
    largest = max(numbers, key=lambda name: numbers[name])
    needed = numbers[largest] * _SCORE
    if memory and needed > memory:  # the size of a number is looked for where it matters
        needed = numbers[largest] * _itemsize(layout.model)
    has_attention = any("z" in points for points in layout.points)
    scores = batch * _n_heads(layout.model) * length * (offset + length) * _SCORE
    if has_attention and scores > needed:
        largest, needed = "attention scores of a layer", scores
    if memory and needed > memory:
        raise ValueRefusedError(
            f"`tokens` must leave memory for the run. Got {batch} prompts of {length} positions, whose {largest} take "
            f"{needed / 2**30:.0f} GiB on a CPU with {memory / 2**30:.0f} GiB of memory. Run fewer prompts at once, or "
            "run them in pieces, `model.run(piece, prompt_cache=...)`, with `logits_at=-1`."
        )


def _n_neurons(layout: Layout) -> int:
    """The neurons of a dense MLP by the model's arguments; 0 if it has none, or they do not hold it."""
    width = getattr(getattr(layout.model, "args", None), "intermediate_size", 0)
    if not isinstance(width, int) or not all("mlp_post" in points for points in layout.points):
        return 0
    return width


def _itemsize(model: Any) -> int:
    """Bytes of the smallest number that the model computes with: of its smallest floating parameters."""
    arrays = [array for _, array in cast("list[tuple[str, mx.array]]", tree_flatten(model.parameters()))]
    sizes = {array.dtype.size for array in arrays if mx.issubdtype(array.dtype, mx.floating)}
    return min(sizes, default=1)


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
