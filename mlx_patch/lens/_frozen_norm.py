"""`FrozenNorm`: a norm with the scale of one run, which makes it a linear map.

A norm is told by what it does to three streams, whatever its code is. Of 0 it makes its bias. Of numbers that are all
equal, a norm that takes the mean away makes its bias too. Of 1 and -1 in turn it makes its gain.
"""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

_SAME = {mx.float32: 1e-4, mx.bfloat16: 0.03, mx.float16: 0.01}
"""How far what a norm returns may be from the linear map, as a fraction of it."""


@dataclass(frozen=True, eq=False)
class FrozenNorm:
    """What a norm does to streams near those of a run: `scale * gain * (x - mean(x)) + bias`, or without the mean.

    Attributes:
        gain: Shape `(width,)`.
        bias: Shape `(width,)`.
        centred: Whether the mean is taken away.
        scale: Of the run. Shape `(batch, pos, 1)`.
    """

    gain: mx.array
    bias: mx.array
    centred: bool
    scale: mx.array

    def back(self, direction: mx.array) -> mx.array:
        """What a direction behind the norm is before it: the derivative by the stream, with the scale as it is.

        Args:
            direction: Shape `(width,)` or `(batch, pos, width)`.
        Returns:
            Shape `(batch, pos, width)`.
        """
        before = self.scale * (direction * self.gain)
        if self.centred:
            before = before - before.mean(axis=-1, keepdims=True)
        return before

    def through(self, part: mx.array) -> mx.array:
        """What a part of the stream is behind the norm, without the bias. Shape `(batch, pos, width)`, both."""
        if self.centred:
            part = part - part.mean(axis=-1, keepdims=True)
        return self.scale * (part * self.gain)


def frozen_norm(norm: Callable[[mx.array], mx.array], before: mx.array, behind: mx.array) -> FrozenNorm | None:
    """A norm with the scale of a run; None where no scale makes it what it is.

    Args:
        norm: The norm, from a stream to a stream.
        before: What the run gave it. Shape `(batch, pos, width)`.
        behind: What it returned. Shape `(batch, pos, width)`.
    """
    if before.shape != behind.shape:
        return None
    width = before.shape[-1]
    in_turn = mx.where(mx.arange(width) % 2 == 0, 1.0, -1.0)
    probes = mx.stack([mx.zeros(width), mx.ones(width), in_turn])
    normed_probes = norm(probes[:, None]).astype(mx.float32)
    of_zero, of_ones, of_turns = normed_probes[:, 0]
    gain = (of_turns - of_zero) * in_turn
    same = _SAME.get(behind.dtype, 1e-4)
    centred = relative_distance(of_ones - of_zero, gain) > 0.5
    stream = before.astype(mx.float32)
    if centred:
        stream = stream - stream.mean(axis=-1, keepdims=True)
    scaled = stream * gain
    moved = behind.astype(mx.float32) - of_zero
    scale = (scaled * moved).sum(axis=-1, keepdims=True) / mx.maximum(
        (scaled * scaled).sum(axis=-1, keepdims=True), 1e-30
    )
    if relative_distance(moved, scale * scaled) > same:
        return None
    return FrozenNorm(gain, of_zero, bool(centred), scale)


def relative_distance(actual: mx.array, expected: mx.array) -> float:
    """The distance of two arrays, as a fraction of the second's length; infinite where they differ in shape."""
    if actual.shape != expected.shape:
        return float("inf")
    expected = expected.astype(mx.float32)
    length = mx.maximum(mx.linalg.norm(expected), 1e-30)
    distance = mx.linalg.norm(actual.astype(mx.float32) - expected)
    return float(np.array(distance / length))
