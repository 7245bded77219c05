"""From products with the encoder to features: ReLU, JumpReLU, TopK, gated."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
from typing_extensions import override


class FeatureActivation(ABC):
    """What makes features of the products of an activation with the encoder's rows."""

    @property
    def of_all(self) -> bool:
        """Whether a feature depends on the products of all others as well."""
        return False

    @abstractmethod
    def __call__(self, products: mx.array, features: Sequence[int] | None) -> mx.array:
        """The features, in float32.

        Args:
            products: With the rows of `features`; with all rows, where `of_all`. Shape `(..., feature)`.
            features: Which features are wanted; None is all.
        """


@dataclass(frozen=True, eq=False)
class Relu(FeatureActivation):
    """`max(0, pre)`, where `pre` is product and bias.

    Attributes:
        bias: Shape `(n_features,)`.
    """

    bias: mx.array

    @override
    def __call__(self, products: mx.array, features: Sequence[int] | None) -> mx.array:
        return mx.maximum(products + chosen(self.bias, features), 0.0)


@dataclass(frozen=True, eq=False)
class JumpRelu(FeatureActivation):
    """`pre` where it is above the feature's threshold, else 0.

    Attributes:
        bias: Shape `(n_features,)`.
        threshold: Shape `(n_features,)`.
        is_rectified: Whether a `pre` below 0 is 0, even above a threshold below 0.
        weights: What `pre` is multiplied by to be compared; None is 1. Shape `(n_features,)`.
    Source:
        Rajamanoharan et al. 2024, https://arxiv.org/abs/2407.14435, section 3.
    """

    bias: mx.array
    threshold: mx.array
    is_rectified: bool = True
    weights: mx.array | None = None

    @override
    def __call__(self, products: mx.array, features: Sequence[int] | None) -> mx.array:
        before = products + chosen(self.bias, features)
        compared = before
        if self.weights is not None:
            compared = before * chosen(self.weights, features)
        value = before
        if self.is_rectified:
            value = mx.maximum(before, 0.0)
        return mx.where(compared > chosen(self.threshold, features), value, 0.0)


@dataclass(frozen=True, eq=False)
class LargestK(FeatureActivation):
    """The `k` largest `pre` of a token; all others are 0. Equal ones at the edge all stay.

    Attributes:
        bias: Shape `(n_features,)`.
        k: How many.
        weights: What `pre` is multiplied by first; None is 1. Shape `(n_features,)`.
        is_rectified: Whether one below 0 among the largest is 0.
    Source:
        Gao et al. 2024, https://arxiv.org/abs/2406.04093, section 2.3.
    """

    bias: mx.array
    k: int
    weights: mx.array | None = None
    is_rectified: bool = True

    @property
    @override
    def of_all(self) -> bool:
        return True

    @override
    def __call__(self, products: mx.array, features: Sequence[int] | None) -> mx.array:
        before = products + self.bias
        if self.weights is not None:
            before = before * self.weights
        largest = mx.topk(mx.stop_gradient(before), self.k, axis=-1)  # which they are has no gradient
        lowest = mx.min(largest, axis=-1, keepdims=True)
        if features is not None:
            before = mx.take(before, mx.array(list(features)), axis=-1)
        value = before
        if self.is_rectified:
            value = mx.maximum(before, 0.0)
        return mx.where(before >= lowest, value, 0.0)


@dataclass(frozen=True, eq=False)
class Gated(FeatureActivation):
    """A magnitude where a gate is open: the gate has the encoder's rows, and the magnitude a multiple of them.

    Attributes:
        gate_bias: Shape `(n_features,)`.
        bias: Of the magnitude. Shape `(n_features,)`.
        log_scale: The logarithm of the multiple. Shape `(n_features,)`.
    Source:
        Rajamanoharan et al. 2024, https://arxiv.org/abs/2404.16014, section 3.2.
    """

    gate_bias: mx.array
    bias: mx.array
    log_scale: mx.array

    @override
    def __call__(self, products: mx.array, features: Sequence[int] | None) -> mx.array:
        gate = products + chosen(self.gate_bias, features)
        magnitude = products * mx.exp(chosen(self.log_scale, features)) + chosen(self.bias, features)
        return mx.where(gate > 0.0, mx.maximum(magnitude, 0.0), 0.0)


def chosen(values: mx.array, features: Sequence[int] | None) -> mx.array:
    """The values of some features; None is all."""
    if features is None:
        return values
    return mx.take(values, mx.array(list(features)), axis=0)
