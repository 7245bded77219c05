"""Metrics for mlx_patch, published by entry points, and interventions that its sweeps run as fast as its own."""

from dataclasses import dataclass, replace

import mlx.core as mx

from mlx_patch.interventions import Intervention, Where
from mlx_patch.metrics import MultiPositionMetric


def top_margin(logits: mx.array) -> mx.array:
    """Logit of the likeliest token minus that of the second, at the last position, in nats.

    Args:
        logits: Unnormalised log-probabilities. Shape `(batch, pos, d_vocab)`.
    Returns:
        The lead, 0 for a tie. Shape `(batch,)`.
    """
    ordered = mx.sort(logits[:, -1], axis=-1)
    return ordered[:, -1] - ordered[:, -2]


@dataclass(frozen=True, repr=False)
class Margin(MultiPositionMetric):
    """The mean of `top_margin` over the last positions, in nats.

    Args:
        last: How many positions.
    """

    last: int

    def positions(self, length: int) -> range:
        """The last ones, or all of a shorter prompt."""
        return range(max(0, length - self.last), length)

    def measure_rows(self, rows: mx.array) -> mx.array:
        """The mean lead at these positions. Shape of `rows`: `(batch, pos, d_vocab)`; of the result: `(batch,)`."""
        ordered = mx.sort(rows, axis=-1)
        return (ordered[..., -1] - ordered[..., -2]).mean(axis=1)


last_margins = Margin(3)
"""What the entry point names: a metric that a sweep pays three positions for."""


@dataclass(frozen=True, repr=False, eq=False)
class Turn(Intervention):
    """Turn each vector towards a direction, and keep its length.

    Args:
        direction: A direction in the last axis. Shape `(d_model,)`.
        amount: How much of it is added before the length is restored, a number or an array without axes.
    """

    direction: mx.array
    amount: float | mx.array = 1.0
    by_position = True
    by_row = True
    in_pieces = True

    def __call__(self, own: mx.array, where: Where) -> mx.array:
        """The turned vectors, in the shape of `own`."""
        before = own.astype(mx.float32)  # a square above 65504 overflows in float16
        after = before + self.amount * self.direction
        lengths = [mx.linalg.norm(vectors, axis=-1, keepdims=True) for vectors in (before, after)]
        return after * lengths[0] / mx.maximum(lengths[1], 1e-20)

    def with_strength(self, alpha: float) -> "Turn":
        """Another amount, for a sweep over "alpha"."""
        return replace(self, amount=alpha)

    def __repr__(self) -> str:
        return f"Turn({self.direction.shape}, {self.amount})"


@dataclass(frozen=True, repr=False)
class Wave(Intervention):
    """Put a wave along the last axis, whatever was there. It says all that a sweep may use of that.

    Args:
        pace: How far it turns from entry to entry.
    """

    pace: float
    by_position = True
    by_row = True
    in_pieces = True
    overwrites = True

    def __call__(self, own: mx.array, where: Where) -> mx.array:
        """The wave, in the shape of `own`."""
        return mx.broadcast_to(mx.cos(self.pace * mx.arange(own.shape[-1])), own.shape).astype(own.dtype)

    def with_strength(self, alpha: float) -> "Wave":
        """Another pace, for a sweep over "alpha"."""
        return Wave(alpha)

    def __repr__(self) -> str:
        return f"Wave({self.pace})"
