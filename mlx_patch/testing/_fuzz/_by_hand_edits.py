"""Interventions written out in numpy from their meaning."""

from typing import Any

import mlx.core as mx
import numpy as np

from mlx_patch.cache import ActivationCache
from mlx_patch.interventions import (
    Ablate,
    Add,
    Apply,
    Chain,
    Clamp,
    Edit,
    Interpolate,
    Project,
    Replace,
    Scale,
    Swap,
    Transformation,
)
from mlx_patch.positions import Selector
from mlx_patch.sites import SITES, Site
from mlx_patch.testing._fuzz._truth import by_step

_KNOWN = (Replace, Interpolate, Add, Scale, Clamp, Project, Swap, Apply)


def is_known(intervention: Transformation) -> bool:
    """Whether the intervention is written out here: random ones are not."""
    if isinstance(intervention, Chain):
        return all(map(is_known, intervention.steps))
    if isinstance(intervention, Ablate):
        return intervention.kind in ("zero", "mean") and intervention.source is None
    return isinstance(intervention, _KNOWN)


def apply_edits(
    activation: np.ndarray, site: Site, rows: tuple[Edit, ...], prompts: tuple[tuple[int, ...], ...]
) -> np.ndarray:
    """The activation with an edit in each row. Each step reads the whole batch as it was before the step."""
    for row_edits in by_step(rows):
        edited = activation.copy()
        for row, (edit, prompt) in enumerate(zip(row_edits, prompts, strict=True)):
            indices = _indices(activation.shape, edit, prompt)
            if row in indices[0]:
                edited[row] = _apply(activation, indices, edit.intervention, site)[row]
        activation = edited
    return activation


def _indices(shape: tuple[int, ...], edit: Edit, prompt: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """The indices along each axis at which an edit acts, in its order."""
    axes = SITES[edit.site].axes
    indices = [np.arange(size) for size in shape]
    for axis in ("pos", "query_pos"):
        if axis in axes:
            indices[axes.index(axis)] = _positions(edit.pos, prompt)
    if edit.batch is not None:
        indices[0] = np.array(edit.batch) % shape[0]
    if edit.head is not None:
        axis = axes.index("head")
        indices[axis] = np.array(edit.head) % shape[axis]
    if edit.neuron is not None:
        indices[-1] = np.array(edit.neuron) % shape[-1]
    return tuple(indices)


def _positions(pos: Any, prompt: tuple[int, ...]) -> np.ndarray:
    positions = np.arange(len(prompt))
    if isinstance(pos, Selector):
        return np.array(pos.resolve(prompt))
    if pos is None:
        return positions
    if isinstance(pos, slice):
        return positions[pos]
    return positions[list(pos)]


def _apply(
    activation: np.ndarray, indices: tuple[np.ndarray, ...], intervention: Transformation, site: Site
) -> np.ndarray:
    steps = (intervention,)
    if isinstance(intervention, Chain):
        steps = intervention.steps
    for step in steps:
        edited = activation.copy()
        with np.errstate(over="ignore"):
            edited[np.ix_(*indices)] = _value(activation, indices, step, site)
        activation = edited
    return activation


def _value(activation: np.ndarray, indices: tuple[np.ndarray, ...], step: Any, site: Site) -> np.ndarray:
    """The values that an intervention gives at some indices of an activation."""
    selected = activation[np.ix_(*indices)]
    match step:
        case Apply():
            return np.array(step.fn(mx.array(selected), site))
        case Scale():
            return np.array(step.factor) * selected
        case Clamp():
            return np.clip(selected, step.low, step.high)
        case Ablate() if step.kind == "zero":
            return np.zeros_like(selected)
        case Ablate():
            return _mean(activation, indices, step.over, site)
        case Project():
            return _project(selected, np.array(step.direction), step.onto)
        case Swap():
            return _swap(selected, np.array(step.first), np.array(step.second))
        case Add():
            return selected + np.array(step.scale) * _source(step.value, activation, indices, site)
        case Interpolate():
            alpha = np.array(step.alpha)
            return (1.0 - alpha) * selected + alpha * _source(step.source, activation, indices, site)
    values = 0.0 * selected + _source(step.source, activation, indices, site)  # Replace: of the shape of both
    if step.basis is None:
        return values
    basis = np.array(step.basis, dtype=np.float64)
    return selected + (values - selected) @ basis @ basis.T


def _source(source: Any, activation: np.ndarray, indices: tuple[np.ndarray, ...], site: Site) -> np.ndarray:
    """The source's values at some indices: of a whole activation, or of one row; others broadcast as they are."""
    if isinstance(source, ActivationCache):
        source = source[site]
    array = np.array(source)
    if array.shape[1:] == activation.shape[1:] and array.ndim == activation.ndim:
        return np.broadcast_to(array, activation.shape)[np.ix_(*indices)]
    return array


def _mean(activation: np.ndarray, indices: tuple[np.ndarray, ...], over: str, site: Site) -> np.ndarray:
    if over == "batch":
        every_row = (np.arange(activation.shape[0]), *indices[1:])
        return activation[np.ix_(*every_row)].mean(axis=0, keepdims=True)
    mean = activation.mean(axis=(0, site.axes.index("pos")), keepdims=True)
    return np.broadcast_to(mean, activation.shape)[np.ix_(*indices)]


def _project(selected: np.ndarray, direction: np.ndarray, onto: bool) -> np.ndarray:
    basis, _ = np.linalg.qr(np.atleast_2d(direction).T.astype(np.float64))
    projection = selected @ basis @ basis.T
    if onto:
        return projection
    return selected - projection


def _swap(selected: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """With the coordinates along two directions exchanged, by solving for them."""
    units = np.stack([vector / np.linalg.norm(vector) for vector in (first, second)]).astype(np.float64)
    if units.shape[1] == 1:
        return -selected
    coordinates = selected @ np.linalg.pinv(units)
    return selected + (coordinates[..., ::-1] - coordinates) @ units
