"""Orthonormal bases: made from directions, checked, and the component of an activation within one."""

from typing import cast

import mlx.core as mx
import numpy as np

from mlx_patch.errors import KindError, ShapeError, ValueRefusedError
from mlx_patch.interventions.sources import as_source

_DEPENDENT = 1e-6
"""Length of a unit vector's component orthogonal to those before it, below which it depends on them.

float32 rounds at 6e-8.
"""

_ORTHONORMAL = 1e-4
"""How far the products of a basis's columns may be from 0 and 1. A QR decomposition in float32 is 100 times closer."""


def orthonormal(direction: mx.array | np.ndarray) -> mx.array:
    """An orthonormal basis of the span of some directions: what `Replace(source, basis=...)` takes.

    Args:
        direction: A vector, or several that are linearly independent, one a row. Shape `(d_model,)` or
            `(direction, d_model)`. `mx.grad` differentiates by them, once: what depends on their span alone.
    Returns:
        A basis, one vector a column. Shape `(d_model, direction)`, float32.
    Raises:
        KindError: `direction` is no array of real numbers.
        ShapeError: It has neither one axis nor two.
        ValueRefusedError: A direction is zero or not finite, or follows from the others.
    Example:
        >>> orthonormal(mx.array([[0.0, 3.0, 0.0], [1.0, 1.0, 0.0]])).shape
        (3, 2)
    """
    return rows_of_basis(_array("direction", direction)).T


def rows_of_basis(directions: mx.array) -> mx.array:
    """Orthonormal vectors that span some directions, one a row. Shape `(direction, d_model)`, float32."""
    rows = cast("mx.array", _basis_of(directions.astype(mx.float32)))
    mx.eval(rows)
    return rows


def as_basis(basis: object) -> mx.array:
    """A basis in float32, one vector a column. Shape `(d_model, direction)`.

    Raises:
        KindError: It is no array of real numbers.
        ShapeError: It has not two axes, or has more columns than rows.
        ValueRefusedError: Its columns are not orthonormal.
    """
    array = _array("basis", basis).astype(mx.float32)
    if array.ndim != 2 or not 1 <= array.shape[1] <= array.shape[0]:
        raise ShapeError(
            f"`basis` must have shape (d_model, direction), one vector a column. Got {array.shape}. "
            "Make one with mp.orthonormal(direction), which takes vectors as rows."
        )
    columns = np.array(array, dtype=np.float64)
    products = columns.T @ columns
    deviation = np.abs(products - np.eye(len(products))).max()
    if not deviation <= _ORTHONORMAL:
        raise ValueRefusedError(
            f"`basis` must have orthonormal columns. Got some whose products are off by {deviation:.2g}. "
            "Make a basis of their span: mp.orthonormal(basis.T)."
        )
    return array


def component(activation: mx.array, rows: mx.array) -> tuple[mx.array, mx.array]:
    """The component of an activation within a subspace, and the remainder. Both have the activation's shape.

    Args:
        activation: In float32.
        rows: Orthonormal vectors, one a row.
    """
    remainder = activation
    within = mx.zeros_like(activation)
    for unit in rows:  # not a matrix product: some devices round those to 10 bits
        along_unit = mx.sum(remainder * unit, axis=-1, keepdims=True) * unit
        remainder = remainder - along_unit
        within = within + along_unit
    return within, remainder


def _array(name: str, value: object) -> mx.array:
    array = as_source(name, value)
    if not isinstance(array, mx.array):
        raise KindError(f"`{name}` must be an mx.array or a numpy array. Got {type(value).__name__}.")
    return array


def _float32_basis(directions: mx.array) -> mx.array:
    """Orthonormal rows that span the directions. They are numpy's, so their gradient is written out below."""
    return mx.array(_orthonormal_rows(directions).astype(np.float32))


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


def _orthonormal_rows(direction: mx.array) -> np.ndarray:
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
