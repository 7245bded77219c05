"""What a dictionary does to an activation before it encodes it, and undoes after decoding."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx
from typing_extensions import override

_EPSILON = 1e-5


class Normalised(NamedTuple):
    """An activation as the encoder reads it, and the way back.

    Attributes:
        activation: What the encoder reads. Shape `(..., d_in)`.
        scale: What decoded values are multiplied by. A number, or shape `(..., 1)`.
        shift: What is added after that. A number, or shape `(..., 1)`.
    """

    activation: mx.array
    scale: mx.array | float = 1.0
    shift: mx.array | float = 0.0


class Normalisation(ABC):
    """A normalisation of activations, in float32."""

    @property
    def by_token(self) -> bool:
        """Whether the way back depends on the activation."""
        return False

    @abstractmethod
    def __call__(self, activation: mx.array) -> Normalised:
        """The activation as the encoder reads it. Shape `(..., d_in)`."""


@dataclass(frozen=True)
class Unchanged(Normalisation):
    """None."""

    @override
    def __call__(self, activation: mx.array) -> Normalised:
        return Normalised(activation)


@dataclass(frozen=True)
class ByFactor(Normalisation):
    """Multiplied by a number that was found over a data set; decoded values are divided by one.

    Attributes:
        into: The factor of what the encoder reads.
        out: The factor that decoded values are divided by.
    """

    into: float
    out: float

    @override
    def __call__(self, activation: mx.array) -> Normalised:
        return Normalised(activation * self.into, 1.0 / self.out)


@dataclass(frozen=True)
class ToConstantNorm(Normalisation):
    """Each token's activation at the length `sqrt(d_in)`: SAELens's `constant_norm_rescale`."""

    @property
    @override
    def by_token(self) -> bool:
        return True

    @override
    def __call__(self, activation: mx.array) -> Normalised:
        root = activation.shape[-1] ** 0.5
        length = mx.sqrt(mx.sum(activation * activation, axis=-1, keepdims=True))
        return Normalised(activation * (root / mx.maximum(length, 1e-30)), length / root)


@dataclass(frozen=True)
class LayerNorm(Normalisation):
    """Each token's activation less its mean, divided by its standard deviation (of `d_in - 1`) and epsilon.

    Decoded values are multiplied by the deviation without epsilon, as SAELens does.
    """

    @property
    @override
    def by_token(self) -> bool:
        return True

    @override
    def __call__(self, activation: mx.array) -> Normalised:
        mean = mx.mean(activation, axis=-1, keepdims=True)
        centred = activation - mean
        variance = mx.sum(centred * centred, axis=-1, keepdims=True) / (activation.shape[-1] - 1)
        deviation = mx.sqrt(variance)
        return Normalised(centred / (deviation + _EPSILON), deviation, mean)
