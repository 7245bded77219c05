"""Random numbers that depend on the seed, the site and the absolute position, and on nothing else.

Not on how a prompt was split over passes, nor on which other positions, rows or heads are picked: so that a patched run
can be compared with the run that it patches, and a fast sweep with a slow one.
"""

from hashlib import blake2b

import mlx.core as mx
import numpy as np

from mlx_patch.sites import Site


def random_stream(seed: int, site: Site) -> int:
    """A 64-bit number for a seed at a site; the same in every process."""
    return int.from_bytes(blake2b(f"{seed} {site}".encode(), digest_size=8).digest(), "little")


def keys(start: int, rows: tuple[int, ...], positions: tuple[int, ...]) -> mx.array:
    """A key for each row and absolute position. Shape `(row, pos, 2)`, uint32.

    Source:
        The mixing function of SplitMix64: Steele, Lea and Flood 2014, https://doi.org/10.1145/2660193.2660195. It is
        a bijection, so that no two keys are equal.
    """
    row, pos = np.array(rows, dtype=np.uint64), np.array(positions, dtype=np.uint64)
    n = (row[:, None] << np.uint64(32)) + pos[None, :] + np.uint64(1)
    z = np.uint64(start) + n * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return mx.array(z[..., None].view(np.uint32))


def normal(keys: mx.array, shape: tuple[int, ...]) -> mx.array:
    """Standard normal numbers, a draw of `shape` for each key. Shape `(row, pos, *shape)`, float32."""
    return mx.vmap(mx.vmap(lambda key: mx.random.normal(shape, key=key)))(keys)


def donors(start: int, rows: tuple[int, ...], n: int) -> list[int]:
    """For each row, one of `n` rows of another batch, with equal chances."""
    return [int(np.random.default_rng((start, row)).integers(n)) for row in rows]


def derangement(start: int, n: int) -> list[int]:
    """A permutation of `n` in which nothing keeps its place; each such one has equal chances.

    Example:
        >>> derangement(0, 2)
        [1, 0]
    """
    generator, places = np.random.default_rng(start), np.arange(n)
    while True:  # 37% of permutations will do
        order = generator.permutation(n)
        if not np.any(order == places):
            return order.tolist()
