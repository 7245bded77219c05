"""Means over a store, shard by shard, added up in float64."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import cast

import mlx.core as mx
import numpy as np

from mlx_patch.cache import as_numpy
from mlx_patch.errors import ValueRefusedError
from mlx_patch.interventions.sources import warn_of
from mlx_patch.store._shards import OpenShard

Mean = tuple[dict[str, mx.array], tuple[int, ...]]
"""The mean by name of site, in float32, of shape `(1, pos, *rest)`; and its positions."""


def mean_of_rows(shards: Iterable[OpenShard], sites: Sequence[str], skip: int = 0) -> Mean:
    """One mean over all rows: every position of every prompt counts once, from `skip` on.

    Raises:
        ValueRefusedError: `skip` is not 0 or more, or no row is left.
    Warns:
        OutlierPositionWarning: One position has more than 30 times the median norm.
    """
    sums: dict[str, np.ndarray] = {}
    norms: dict[str, np.ndarray] = {}
    counts = np.zeros(0)
    for shard in shards:
        included = shard.positions >= skip
        positions = shard.positions[included]
        counts = _padded_sum(counts, np.bincount(positions))
        for site in sites:
            values = as_numpy(shard.arrays[site])
            if not included.all():
                values = values[included]
            shard_sum = np.add.reduce(values, axis=0, dtype=np.float64)
            shard_norms = np.bincount(positions, weights=_norms(values))
            if site in sums:
                sums[site] = sums[site] + shard_sum
                norms[site] = _padded_sum(norms[site], shard_norms)
            else:
                sums[site] = shard_sum
                norms[site] = shard_norms
    if not counts.any():
        raise ValueRefusedError(
            f"`skip` must leave a position to average. Got {skip}, with no position after it. Skip fewer, or capture "
            "longer prompts."
        )
    present = np.flatnonzero(counts)
    warn_of((site, present.tolist(), total[present] / counts[present]) for site, total in norms.items())
    n_rows = counts.sum()
    means = {site: _as_mlx((total / n_rows)[None, None]) for site, total in sums.items()}
    return means, (0,)


def _norms(rows: np.ndarray) -> np.ndarray:
    """The norm of each row."""
    flat = rows.reshape(len(rows), math.prod(rows.shape[1:]))
    return np.sqrt(np.einsum("nd,nd->n", flat, flat, dtype=np.float64))


def _padded_sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The sum of two vectors, the shorter one padded with zeros."""
    length = max(len(a), len(b))
    padded_a = np.pad(a, (0, length - len(a)))
    padded_b = np.pad(b, (0, length - len(b)))
    return padded_a + padded_b


def mean_of_positions(shards: Iterable[OpenShard], sites: Sequence[str], n_positions: int) -> Mean:
    """A mean for each position, over the prompts that have it."""
    sums: dict[str, np.ndarray] = {}
    counts = np.zeros(n_positions, dtype=np.int64)
    for shard in shards:
        # One prompt at a time: within a prompt no position repeats, so that += adds each row once.
        rows = [slice(start, end) for start, end in pairwise(shard.starts)]
        included = [shard.positions[prompt_rows] < n_positions for prompt_rows in rows]
        positions = [shard.positions[prompt_rows][mask] for prompt_rows, mask in zip(rows, included, strict=True)]
        for prompt_positions in positions:
            counts[prompt_positions] += 1
        for site in sites:
            values = as_numpy(shard.arrays[site])
            total = sums.setdefault(site, np.zeros((n_positions, *values.shape[1:])))
            for prompt_rows, mask, prompt_positions in zip(rows, included, positions, strict=True):
                total[prompt_positions] += values[prompt_rows][mask]
    present = np.flatnonzero(counts)
    means = {site: _as_mlx(_divided(total[present], counts[present])[None]) for site, total in sums.items()}
    return means, tuple(cast("list[int]", present.tolist()))


def _divided(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Each row divided by its count."""
    return rows / counts.reshape(-1, *[1] * (rows.ndim - 1))


def _as_mlx(mean: np.ndarray) -> mx.array:
    return mx.array(mean.astype(np.float32))
