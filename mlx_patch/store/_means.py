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
"""The mean by name of site, in float32, of shape `(1, pos, *rest)`; and the positions that it has."""


def mean_of_rows(shards: Iterable[OpenShard], sites: Sequence[str], skip: int = 0) -> Mean:
    """One mean over all rows: every position of every prompt counts once, from `skip` on.

    Raises:
        ValueRefusedError: `skip` is not 0 or more, or no row is left.
    Warns:
        OutlierPositionWarning: One position has more than 30 times the median norm.
    """
    if isinstance(skip, bool) or not isinstance(skip, int) or skip < 0:
        raise ValueRefusedError(f"`skip` must be 0 or more. Got {skip!r}.")
    sums: dict[str, np.ndarray] = {}
    norms: dict[str, np.ndarray] = {}
    counts = np.zeros(0)
    for shard in shards:
        kept = shard.positions >= skip
        positions = shard.positions[kept]
        counts = _added(counts, np.bincount(positions))
        for site in sites:
            values = as_numpy(shard.arrays[site])
            values = values if kept.all() else values[kept]
            own = np.add.reduce(values, axis=0, dtype=np.float64)
            sums[site] = sums[site] + own if site in sums else own
            by_position = np.bincount(positions, weights=_norms(values))
            norms[site] = _added(norms[site], by_position) if site in norms else by_position
    if not counts.any():
        raise ValueRefusedError(
            f"`skip` must leave a position to take the mean of. Got {skip}, and positions up to it alone. "
            "Leave out fewer, or capture longer prompts."
        )
    held = np.flatnonzero(counts)
    warn_of((site, held.tolist(), own[held] / counts[held]) for site, own in norms.items())
    return {site: _as_mlx((total / counts.sum())[None, None]) for site, total in sums.items()}, (0,)


def _norms(rows: np.ndarray) -> np.ndarray:
    """The norm of each row."""
    flat = rows.reshape(len(rows), math.prod(rows.shape[1:]))
    return np.sqrt(np.einsum("nd,nd->n", flat, flat, dtype=np.float64))


def _added(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The sum of two rows of numbers, the shorter one with zeros behind it."""
    length = max(len(one), len(other))
    return np.pad(one, (0, length - len(one))) + np.pad(other, (0, length - len(other)))


def mean_of_positions(shards: Iterable[OpenShard], sites: Sequence[str], n_positions: int) -> Mean:
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
