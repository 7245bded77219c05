"""`Swap`: exchange the coordinates along two directions."""

from collections.abc import Iterable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from typing_extensions import override

from mlx_patch.errors import KindError, ShapeError, ValueRefusedError
from mlx_patch.interventions._elementwise import Local
from mlx_patch.interventions._fitted import wide
from mlx_patch.interventions._masked import SCORES, refuse_masked
from mlx_patch.interventions._where import Where
from mlx_patch.interventions.sources import as_source, describe
from mlx_patch.sites import Site

_SAME = 1e-4
"""Distance of two unit vectors below which they are one direction."""


@dataclass(frozen=True, repr=False, eq=False, init=False)
class Swap(Local):
    """The activation with its coordinates along two directions exchanged: how much of one there is, and of the other.

    The directions' lengths do not matter. What is orthogonal to both stays, and so does the activation's length: it is
    a reflection, in which the direction between the two changes its sign. To swap twice is to change nothing.

    Args:
        first: A vector of the last axis. Shape `(d_model,)`.
        second: Another. The same.
    Raises:
        KindError: One is no array.
        ShapeError: They differ in shape, or have other than one axis. When it runs: the last axis has another size.
        ValueRefusedError: One is zero or not finite, or both are the same direction.
    Source:
        Householder 1958, https://doi.org/10.1145/320941.320947, for the reflection.
    Example:
        >>> Swap(mx.array([1.0, 0.0]), mx.array([0.0, 2.0]))
        Swap(array (2,) float32, array (2,) float32)
    """

    first: mx.array
    second: mx.array
    between: mx.array
    """The unit vector from the second direction to the first. Shape `(d_model,)`, float32."""

    def __init__(self, first: mx.array | np.ndarray, second: mx.array | np.ndarray) -> None:
        vectors = [_vector("first", first), _vector("second", second)]
        units = [_unit(name, vector) for name, vector in zip(("first", "second"), vectors, strict=True)]
        if units[0].shape != units[1].shape:
            raise ShapeError(f"`second` must have the shape of `first`, {units[0].shape}. Got {units[1].shape}.")
        difference = units[0] - units[1]
        length = mx.linalg.norm(difference)
        if float(np.array(length)) < _SAME:
            raise ValueRefusedError("`second` must be another direction than `first`. Got the same.")
        between = difference / length
        mx.eval(between)
        object.__setattr__(self, "first", vectors[0])
        object.__setattr__(self, "second", vectors[1])
        object.__setattr__(self, "between", between)

    @override
    def __call__(self, own: mx.array, where: Where) -> mx.array:
        if own.shape[-1:] != self.between.shape:
            raise ShapeError(
                f"`first` must have the size of the last axis, {own.shape[-1]}. Got {self.between.shape[0]}."
            )
        activation = wide(own)
        component = mx.sum(activation * self.between, axis=-1, keepdims=True)
        return activation - 2 * component * self.between

    @override
    def check(self, sites: Iterable[Site]) -> None:
        refuse_masked(repr(self), sites, SCORES, "Swap in 'q' or 'k'.")

    @override
    def __repr__(self) -> str:
        return f"Swap({describe(self.first)}, {describe(self.second)})"


def _vector(name: str, direction: object) -> mx.array:
    array = as_source(name, direction)
    if not isinstance(array, mx.array):
        raise KindError(f"`{name}` must be an mx.array or a numpy array. Got {type(direction).__name__}.")
    if array.ndim != 1 or not array.size:
        raise ShapeError(f"`{name}` must have shape (d_model,). Got {array.shape}.")
    return array


def _unit(name: str, direction: mx.array) -> mx.array:
    """A direction of length 1, in float32."""
    vector = direction.astype(mx.float32)
    largest = mx.max(mx.abs(vector))
    if not mx.isfinite(largest).item() or largest.item() == 0:
        raise ValueRefusedError(
            f"`{name}` must hold finite numbers, not all 0. Got a largest one of {largest.item()}. Check where it came "
            "from."
        )
    vector = vector / largest  # the squares of very small numbers would be 0
    return vector / mx.linalg.norm(vector)
