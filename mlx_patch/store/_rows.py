"""Rows of a store: which prompt, which position, which token; and batches of them for training."""

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

    def __getitem__(self, which: slice | np.ndarray) -> "Rows":
        return Rows(self.prompts[which], self.positions[which], self.tokens[which])


def prompt_rows(shard: OpenShard) -> Rows:
    """Where the rows of a shard come from."""
    prompts = np.repeat(np.arange(shard.first, shard.first + len(shard.kept)), shard.kept)
    starts = np.repeat(np.cumsum((0, *shard.lengths[:-1])), shard.kept)
    return Rows(prompts, shard.positions, np.array(shard.arrays["tokens"])[starts + shard.positions])


def joined(several: list[Rows]) -> Rows:
    """Rows one after the other."""
    return Rows(*(np.concatenate([getattr(r, n) for r in several]) for n in ("prompts", "positions", "tokens")))


def batched(shards: Iterator[tuple[mx.array, Rows]], size: int) -> Iterator[tuple[mx.array, Rows]]:
    """Batches of `size` rows across shards; the last one has what is left.

    Args:
        shards: The values and the rows of each shard, one after the other.
        size: Rows in a batch.
    """
    left: list[tuple[mx.array, Rows]] = []
    for values, rows in shards:
        left.append((values, rows))
        if sum(len(own) for _, own in left) < size:
            continue
        together, of = _together(left)
        whole = len(of) - len(of) % size
        for start in range(0, whole, size):
            yield evaluated(together[start : start + size]), of[start : start + size]
        left = [(evaluated(mx.contiguous(together[whole:])), of[whole:])] if whole < len(of) else []
    if left:
        yield _together(left)


def evaluated(array: mx.array) -> mx.array:
    """The array, once it is computed: until then it is for the thread that made it."""
    mx.eval(array)
    return array


def _together(several: list[tuple[mx.array, Rows]]) -> tuple[mx.array, Rows]:
    if len(several) == 1:
        return several[0]
    values = evaluated(mx.concatenate([values for values, _ in several], axis=0))
    return values, joined([rows for _, rows in several])
