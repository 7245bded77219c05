"""`HeadsOff`: the heads of a block in the run of a circuit, and what they add where some have the source's values."""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_patch.attribution import PromptRun
from mlx_patch.circuits._host_run import pieces_of_copies, values_of_segments
from mlx_patch.sites import Site


@dataclass(frozen=True, eq=False)
class HeadsOff:
    """The heads of a block, in the run of a circuit.

    Attributes:
        layer: The block.
        first: The index of the first head among the writers.
        z: In this run. Shape `(batch, pos, head, d_head)`.
        source: The source's `z`.
        attn_out: What the block adds in this run. Shape `(batch, pos, d_model)`.
    """

    layer: int
    first: int
    z: mx.array
    source: mx.array
    attn_out: mx.array

    @property
    def end(self) -> int:
        """The index of the writer after the last head."""
        return self.first + self.z.shape[2]

    def mixed(self, patterns: np.ndarray) -> mx.array:
        """`z` with the source's values at some heads. Shape `(pattern * batch, pos, head, d_head)`.

        Args:
            patterns: Which heads have them. Bool, shape `(pattern, head)`.
        """
        is_off = mx.array(patterns)[:, None, None, :, None]
        return mx.where(is_off, self.source[None], self.z[None]).flatten(0, 1)

    def change(self, attn_out: mx.array) -> mx.array:
        """How much more is added than in this run. Float32, shape `(pattern, batch, pos, d_model)`.

        Args:
            attn_out: With some patterns. Shape `(pattern * batch, pos, d_model)`.
        """
        by_pattern = attn_out.astype(mx.float32).reshape(-1, *self.attn_out.shape)
        return by_pattern - self.attn_out.astype(mx.float32)


def changes_of_heads(prompt_run: PromptRun, heads: HeadsOff, patterns: np.ndarray) -> mx.array:
    """How much more the heads of a block add where some of them have the source's values.

    Args:
        prompt_run: The prompts.
        heads: The heads.
        patterns: Which of them. Bool, shape `(pattern, head)`.
    Returns:
        Float32, unevaluated. Shape `(pattern, batch, pos, d_model)`.
    """
    end = Site("attn_out", heads.layer)
    changes = []
    for chosen in pieces_of_copies(prompt_run, len(patterns)):
        mixed = heads.mixed(patterns[chosen])
        [attn_out] = values_of_segments(prompt_run, {Site("z", heads.layer): mixed}, [end], end)
        changes.append(heads.change(attn_out))
    return mx.concatenate(changes)


def changes_of_readers(prompt_run: PromptRun, blocks: Sequence[HeadsOff], is_off: np.ndarray) -> mx.array:
    """How much more the heads of several blocks add where some of them have the source's values.

    Args:
        prompt_run: The prompts.
        blocks: The heads; one or more blocks.
        is_off: Which writers have the source's values, for each reader. Bool, shape `(writer, reader)`.
    Returns:
        Float32, unevaluated, summed over blocks. Shape `(reader, batch, pos, d_model)`.
    """
    exits = [Site("attn_out", heads.layer) for heads in blocks]
    pieces = []
    for chosen in pieces_of_copies(prompt_run, is_off.shape[1]):
        values = {Site("z", heads.layer): heads.mixed(is_off[heads.first : heads.end, chosen].T) for heads in blocks}
        arrays = values_of_segments(prompt_run, values, exits, exits[-1])
        changes = [heads.change(attn_out) for heads, attn_out in zip(blocks, arrays, strict=True)]
        pieces.append(sum(changes[1:], changes[0]))
    return mx.concatenate(pieces)
