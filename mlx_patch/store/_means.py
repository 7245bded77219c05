"""Means over a store, shard by shard, added up in float64."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import cast

import mlx.core as mx
import numpy as np

from mlx_patch.cache import as_numpy
from mlx_patch.store._shards import Opened

Mean = tuple[dict[str, mx.array], tuple[int, ...]]
"""The mean by name of site, in float32, of shape `(1, pos, *rest)`; and the positions that it has."""


def mean_of_rows(shards: Iterable[Opened], sites: Sequence[str]) -> Mean:
    """One mean over all rows: every position of every prompt counts once."""
    sums: dict[str, np.ndarray] = {}
    n = 0
    for shard in shards:
        n += shard.starts[-1]
        for site in sites:
            own = np.add.reduce(as_numpy(shard.arrays[site]), axis=0, dtype=np.float64)
            sums[site] = sums[site] + own if site in sums else own
    return {site: _as_mlx((total / n)[None, None]) for site, total in sums.items()}, (0,)


def mean_of_positions(shards: Iterable[Opened], sites: Sequence[str], n_positions: int) -> Mean:
    """A mean for each position, over the prompts that have it."""
    sums: dict[str, np.ndarray] = {}
    counts = np.zeros(n_positions, dtype=np.int64)
    for shard in shards:
        inside = [slice(a, b) for a, b in pairwise(shard.starts)]
        at = [shard.positions[own][shard.positions[own] < n_positions] for own in inside]
        for positions in at:
            counts[positions] += 1
        for site in sites:
            values = as_numpy(shard.arrays[site])
            total = sums.setdefault(site, np.zeros((n_positions, *values.shape[1:])))
            for own, positions in zip(inside, at, strict=True):
                total[positions] += values[own][shard.positions[own] < n_positions]
    held = np.flatnonzero(counts)
    means = {
        site: _as_mlx((total[held] / counts[held].reshape(-1, *[1] * (total.ndim - 1)))[None])
        for site, total in sums.items()
    }
    return means, tuple(cast("list[int]", held.tolist()))


def _as_mlx(mean: np.ndarray) -> mx.array:
    return mx.array(mean.astype(np.float32))
