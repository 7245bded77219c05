"""Random numbers that depend only on the seed, the site and the absolute position.

They do not depend on how a prompt was split over passes, nor on which other positions, rows or heads are picked. So a
patched run can be compared with the run that it patches, and a fast sweep with a slow one.
"""

from hashlib import blake2b

import mlx.core as mx
import numpy as np

from mlx_patch.sites import Site


def random_stream(seed: int, site: Site) -> int:
    """A 64-bit number for a seed at a site; the same in every process."""
    digest = blake2b(f"{seed} {site}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def keys(start: int, rows: tuple[int, ...], positions: tuple[int, ...]) -> mx.array:
    """A key for each row and absolute position. Shape `(row, pos, 2)`, uint32.

    Source:
        The mixing function of SplitMix64: Steele, Lea and Flood 2014, https://doi.org/10.1145/2660193.2660195. It is
        a bijection, so that no two keys are equal.
    """
    row = np.array(rows, dtype=np.uint64)[:, None]
    pos = np.array(positions, dtype=np.uint64)[None, :]
    counter = (row << np.uint64(32)) + pos + np.uint64(1)
    mixed = np.uint64(start) + counter * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed = mixed ^ (mixed >> np.uint64(31))
    return mx.array(mixed[..., None].view(np.uint32))


def normal(keys: mx.array, shape: tuple[int, ...]) -> mx.array:
    """Standard normal numbers, a draw of `shape` for each key. Shape `(row, pos, *shape)`, float32."""

    def draw(key: mx.array) -> mx.array:
        return mx.random.normal(shape, key=key)

    return mx.vmap(mx.vmap(draw))(keys)


def donors(start: int, rows: tuple[int, ...], n: int) -> list[int]:
    """For each row, one of `n` rows of another batch, with equal chances."""
    generators = [np.random.default_rng((start, row)) for row in rows]
    return [int(generator.integers(n)) for generator in generators]


def derangement(start: int, n: int) -> list[int]:
    """A permutation of `n` places without a fixed point, each with equal chances.

    Example:
        >>> derangement(0, 2)
        [1, 0]
    """
    generator = np.random.default_rng(start)
    places = np.arange(n)
    while True:  # 37% of permutations have no fixed point
        order = generator.permutation(n)
        if not np.any(order == places):
            return order.tolist()
