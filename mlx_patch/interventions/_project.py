"""`Project` and `Swap`: remove directions from an activation, keep them alone, or exchange two."""

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

_DEPENDENT = 1e-6
"""Length of a unit vector's component orthogonal to those before it, below which it depends on them.

float32 rounds at 6e-8.
"""

_SAME = 1e-4
"""Distance of two unit vectors below which they are one direction."""


@dataclass(frozen=True, repr=False, eq=False, init=False)
class Project(Local):
    """The activation without its component along some directions of the last axis, or (`onto`) that component alone.

    Args:
        direction: A vector, or several that are linearly independent. Their length and the angles between them do not
            matter. Shape `(d_model,)` or `(direction, d_model)`, for whatever the last axis is. `mx.grad`
            differentiates by them, once.
        onto: Whether to keep the component, and drop the rest.
    Raises:
        ShapeError: `direction` has neither one axis nor two. When it runs: the last axis has another size.
        ValueRefusedError: A direction is zero or not finite, or follows from the others.
    Source:
        Arditi et al. 2024 (directional ablation), https://arxiv.org/abs/2406.11717, section 2.4.
    Example:
        >>> Project(mx.array([0.0, 2.0])), Project(mx.array([0.0, 2.0]), onto=True)
        (Project(array (2,) float32), Project(array (2,) float32, onto=True))
    """

    direction: mx.array
    onto: bool
    basis: mx.array
    """Orthonormal vectors of the same span. Shape `(direction, d_model)`, float32. Has the gradient of the span."""

    def __init__(self, direction: mx.array | np.ndarray, onto: bool = False) -> None:
        array = as_source("direction", direction)
        if not isinstance(array, mx.array):
            raise KindError(f"`direction` must be an mx.array or a numpy array. Got {type(direction).__name__}.")
        if not isinstance(onto, bool):
            raise KindError(f"`onto` must be True or False. Got {onto!r}.")
        object.__setattr__(self, "direction", array)
        object.__setattr__(self, "onto", onto)
        basis = _basis_of(array.astype(mx.float32))
        mx.eval(basis)
        object.__setattr__(self, "basis", basis)

    @override
    def __call__(self, own: mx.array, where: Where) -> mx.array:
        if own.shape[-1:] != self.basis.shape[1:]:
            raise ShapeError(
                f"`direction` must have the size of the last axis, {own.shape[-1]}. Got {self.basis.shape[1]}."
            )
        remainder = wide(own)
        projection = mx.zeros_like(remainder)
        for unit in self.basis:  # not a matrix product: some devices round those to 10 bits
            component = mx.sum(remainder * unit, axis=-1, keepdims=True) * unit
            remainder = remainder - component
            projection = projection + component
        return projection if self.onto else remainder

    @override
    def check(self, sites: Iterable[Site]) -> None:
        refuse_masked(repr(self), sites, SCORES, "Project 'q' or 'k'.")

    @override
    def __repr__(self) -> str:
        if self.onto:
            return f"Project({describe(self.direction)}, onto=True)"
        return f"Project({describe(self.direction)})"


def _float32_basis(direction: mx.array) -> mx.array:
    """Orthonormal rows that span the directions. They are numpy's, so their gradient is written out below."""
    return mx.array(_orthonormal(direction).astype(np.float32))


def _gradient_by_direction(direction: mx.array, cotangent: mx.array, basis: mx.array) -> mx.array:
    """Gradient by the directions, of what depends on their span alone.

    A change of `direction` changes `to_basis @ direction`, which is the basis, by `to_basis @ change`. Of that, only
    what is orthogonal to the span moves the span.
    """
    rows = np.atleast_2d(np.array(direction, dtype=np.float64))
    to_basis = mx.array(np.linalg.inv(rows @ np.array(basis, dtype=np.float64).T).astype(np.float32))
    tangent = cotangent - (cotangent @ basis.T) @ basis
    return (to_basis.T @ tangent).reshape(direction.shape)


_basis_of = mx.custom_function(_float32_basis)
_basis_of.vjp(_gradient_by_direction)


def _orthonormal(direction: mx.array) -> np.ndarray:
    """Orthonormal rows that span the directions. Shape `(direction, d_model)`, float64."""
    if direction.ndim not in (1, 2) or 0 in direction.shape:
        raise ShapeError(f"`direction` must have shape (d_model,) or (direction, d_model). Got {direction.shape}.")
    rows = np.array(direction.astype(mx.float32), dtype=np.float64)
    rows = np.atleast_2d(rows)
    if not np.all(np.isfinite(rows)):
        raise ValueRefusedError("`direction` must hold finite numbers. Got NaN or infinity. Check where it came from.")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.all(lengths):
        raise ValueRefusedError(
            f"`direction` must not be zero. Got row {int(np.argmin(lengths))} all zero. Leave it out."
        )
    units = rows / lengths
    basis, triangle = np.linalg.qr(units.T)
    orthogonal_lengths = np.abs(np.diagonal(triangle))
    if len(units) > units.shape[1] or np.any(orthogonal_lengths < _DEPENDENT):
        rank = np.linalg.matrix_rank(units, tol=_DEPENDENT)
        raise ValueRefusedError(
            f"`direction` must hold linearly independent rows. Got {len(units)} rows of rank {rank}. "
            "Leave out those that follow from the others."
        )
    return basis.T


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
