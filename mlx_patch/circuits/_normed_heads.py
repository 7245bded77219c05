"""`NormedHeads`: heads behind which a norm stands, so that what they add is no sum of their shares.

What a reader reads of them is then the norm of all heads together, where some have the source's values.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_patch.attribution import PromptRun
from mlx_patch.circuits._host_run import pieces_of_copies, values_of_segments
from mlx_patch.sites import Site


@dataclass(frozen=True, eq=False)
class NormedHeads:
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


def changes_of_normed_heads(prompt_run: PromptRun, blocks: Sequence[NormedHeads], is_off: np.ndarray) -> mx.array:
    """How much more the heads of some blocks add where some of them have the source's values.

    Args:
        prompt_run: The prompts.
        blocks: The heads; one or more blocks.
        is_off: Which writers have the source's values, for each reader. Bool, shape `(writer, reader)`.
    Returns:
        Float32, unevaluated, summed over blocks. Shape `(batch, pos, reader, d_model)`.
    """
    pieces = []
    for chosen in pieces_of_copies(prompt_run, is_off.shape[1]):
        values = {Site("z", block.layer): _mixed(block, is_off[:, chosen]) for block in blocks}
        exits = [Site("attn_out", block.layer) for block in blocks]
        arrays = values_of_segments(prompt_run, values, exits, exits[-1])
        changes = []
        for block, attn_out in zip(blocks, arrays, strict=True):
            by_reader = attn_out.astype(mx.float32).reshape(-1, *block.attn_out.shape)
            changes.append(by_reader - block.attn_out.astype(mx.float32))
        pieces.append(sum(changes[1:], changes[0]).transpose(1, 2, 0, 3))
    return mx.concatenate(pieces, axis=2)


def _mixed(block: NormedHeads, is_off: np.ndarray) -> mx.array:
    """`z` with the source's values at some heads, once for each reader. Shape `(reader * batch, pos, head, d_head)`."""
    by_reader = mx.array(is_off[block.first : block.end].T)[:, None, None, :, None]
    return mx.where(by_reader, block.source[None], block.z[None]).flatten(0, 1)
