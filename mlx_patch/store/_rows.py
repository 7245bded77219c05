"""Rows of a store: their prompts, positions and tokens; and batches of them for training."""

from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_patch.store._shards import OpenShard


@dataclass(frozen=True, eq=False)
class Rows:
    """Where some rows of a store come from. Each array has the shape `(row,)`.

    Attributes:
        prompts: The number of the prompt.
        positions: The absolute position in it.
        tokens: The token there.
    """

    prompts: np.ndarray
    positions: np.ndarray
    tokens: np.ndarray

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: slice | np.ndarray) -> "Rows":
        return Rows(self.prompts[index], self.positions[index], self.tokens[index])


def prompt_rows(shard: OpenShard) -> Rows:
    """The prompt, position and token of each row of a shard."""
    numbers = np.arange(shard.first, shard.first + len(shard.kept))
    starts = np.cumsum((0, *shard.lengths[:-1]))
    tokens = np.array(shard.arrays["tokens"])
    token_places = np.repeat(starts, shard.kept) + shard.positions
    return Rows(np.repeat(numbers, shard.kept), shard.positions, tokens[token_places])


def joined(chunks: list[Rows]) -> Rows:
    """Rows one after the other."""
    return Rows(
        prompts=np.concatenate([rows.prompts for rows in chunks]),
        positions=np.concatenate([rows.positions for rows in chunks]),
        tokens=np.concatenate([rows.tokens for rows in chunks]),
    )


def batched(shards: Iterator[tuple[mx.array, Rows]], size: int) -> Iterator[tuple[mx.array, Rows]]:
    """Batches of `size` rows across shards; the last one may be smaller.

    Args:
        shards: The values and the rows of each shard, one after the other.
        size: Rows in a batch.
    """
    pending: list[tuple[mx.array, Rows]] = []
    for values, rows in shards:
        pending.append((values, rows))
        if sum(len(chunk_rows) for _, chunk_rows in pending) < size:
            continue
        pool, pool_rows = _concatenated(pending)
        end = len(pool_rows) - len(pool_rows) % size
        for start in range(0, end, size):
            yield evaluated(pool[start : start + size]), pool_rows[start : start + size]
        pending = []
        if end < len(pool_rows):
            remainder = mx.contiguous(pool[end:])  # a slice would keep the whole pool in memory
            pending.append((evaluated(remainder), pool_rows[end:]))
    if pending:
        yield _concatenated(pending)


def evaluated(array: mx.array) -> mx.array:
    """The array, evaluated, so that any thread can use it."""
    mx.eval(array)
    return array


def _concatenated(chunks: list[tuple[mx.array, Rows]]) -> tuple[mx.array, Rows]:
    if len(chunks) == 1:
        return chunks[0]
    values = evaluated(mx.concatenate([values for values, _ in chunks], axis=0))
    return values, joined([rows for _, rows in chunks])
