"""What interventions do, written out in numpy from what they mean."""

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
    Transformation,
)
from mlx_patch.positions import Selector
from mlx_patch.sites import SITES, Site
from mlx_patch.testing._fuzz._truth import by_step

_KNOWN = (Replace, Interpolate, Add, Scale, Clamp, Project, Apply)


def is_known(intervention: Transformation) -> bool:
    """Whether the intervention is written out here: random ones are not."""
    if isinstance(intervention, Chain):
        return all(map(is_known, intervention.steps))
    ablation = (
        isinstance(intervention, Ablate) and intervention.kind in ("zero", "mean") and intervention.source is None
    )
    return ablation or isinstance(intervention, _KNOWN)


def edited(
    whole: np.ndarray, name: str, rows: tuple[Edit, ...], layer: int | None, prompts: tuple[tuple[int, ...], ...]
) -> np.ndarray:
    """The activation with an edit in each row. Each step is made over the whole batch as it was."""
    for of_rows in by_step(rows):
        out = whole.copy()
        for row, (edit, prompt) in enumerate(zip(of_rows, prompts, strict=True)):
            part = _part(whole.shape, name, edit, prompt)
            if row in part[0]:
                out[row] = _with(whole, part, edit.intervention, Site(name, layer))[row]
        whole = out
    return whole


def _part(shape: tuple[int, ...], name: str, edit: Edit, prompt: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """The indices along each axis that an edit is made at, in its order."""
    axes = SITES[name].axes
    picked = [np.arange(size) for size in shape]
    along = axes.index("query_pos" if "query_pos" in axes else "pos")
    picked[along] = _positions(edit.pos, prompt)
    for what, axis in (("batch", 0), ("head", axes.index("head") if "head" in axes else 0), ("neuron", -1)):
        chosen = getattr(edit, what)
        if chosen is not None:
            picked[axis] = np.array(chosen) % shape[axis]
    return tuple(picked)


def _positions(pos: Any, prompt: tuple[int, ...]) -> np.ndarray:
    every = np.arange(len(prompt))
    if isinstance(pos, Selector):
        return np.array(pos.resolve(prompt))
    if pos is None or isinstance(pos, slice):
        return every[pos] if pos is not None else every
    return every[list(pos)]


def _with(whole: np.ndarray, part: tuple[np.ndarray, ...], intervention: Transformation, site: Site) -> np.ndarray:
    for step in intervention.steps if isinstance(intervention, Chain) else (intervention,):
        out = whole.copy()
        with np.errstate(over="ignore"):
            out[np.ix_(*part)] = _value(whole, part, step, site)
        whole = out
    return whole


def _value(whole: np.ndarray, part: tuple[np.ndarray, ...], step: Any, site: Site) -> np.ndarray:
    """What an intervention gives for a part of an activation."""
    own = whole[np.ix_(*part)]
    if isinstance(step, Apply):
        return np.array(step.fn(mx.array(own), site))
    if isinstance(step, Scale):
        return np.array(step.factor) * own
    if isinstance(step, Clamp):
        return np.clip(own, step.low, step.high)
    if isinstance(step, Ablate):
        return np.zeros_like(own) if step.kind == "zero" else _mean(whole, part, step.over, site)
    if isinstance(step, Project):
        return _projected(own, np.array(step.direction), step.onto)
    source = _source(step.value if isinstance(step, Add) else step.source, whole, part, site)
    if isinstance(step, Add):
        return own + np.array(step.scale) * source
    alpha = np.array(step.alpha if isinstance(step, Interpolate) else 1.0)
    return (1.0 - alpha) * own + alpha * source


def _source(source: Any, whole: np.ndarray, part: tuple[np.ndarray, ...], site: Site) -> np.ndarray:
    """The source's values for a part: of a whole activation, of one row of it, or what broadcasts to the part."""
    array = np.array(source[site] if isinstance(source, ActivationCache) else source)
    if array.shape[1:] == whole.shape[1:] and array.ndim == whole.ndim:
        return np.broadcast_to(array, whole.shape)[np.ix_(*part)]
    return array


def _mean(whole: np.ndarray, part: tuple[np.ndarray, ...], over: str, site: Site) -> np.ndarray:
    if over == "batch":
        every_row = (np.arange(whole.shape[0]), *part[1:])
        return whole[np.ix_(*every_row)].mean(axis=0, keepdims=True)
    mean = np.broadcast_to(whole.mean(axis=(0, site.axes.index("pos")), keepdims=True), whole.shape)
    return mean[np.ix_(*part)]


def _projected(own: np.ndarray, direction: np.ndarray, onto: bool) -> np.ndarray:
    basis, _ = np.linalg.qr(np.atleast_2d(direction).T.astype(np.float64))
    kept = own @ basis @ basis.T
    return kept if onto else own - kept
