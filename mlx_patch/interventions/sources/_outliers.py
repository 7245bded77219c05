"""Warnings about positions that dominate a mean: attention sinks, whose norm is hundreds of times that of others.

The norms of a run's own activations are known when it is evaluated, and not in its forward pass: code that runs a model
collects them meanwhile and warns afterwards. Elsewhere (inside `editing`, in a trial on zeros) none are collected.
"""

import warnings
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from mlx_patch.errors import OutlierPositionWarning
from mlx_patch.interventions._fitted import wide

TIMES_MEDIAN = 30.0
"""The multiple of the median position's norm above which a position dominates a mean."""

_FIRST = 4
"""The number of first positions among which sinks are; an outlier behind them is no matter of `skip`."""

_warned: set[int] = set()
"""The `id` of each owner that has warned and still exists."""


@dataclass(frozen=True)
class Norms:
    """The norm of an activation at each position, the mean over rows.

    Attributes:
        positions: The absolute positions that a mean is taken over.
        values: Shape `(pos,)`.
    """

    positions: Sequence[int]
    values: mx.array


@dataclass
class Notes:
    """The norms of a run's own activations, unevaluated, each with the owner that takes their mean."""

    noted: list[tuple[object, str, Norms]] = field(default_factory=list)

    @property
    def arrays(self) -> list[mx.array]:
        """The arrays to evaluate with the run."""
        return [norms.values for _, _, norms in self.noted]

    def warn(self) -> None:
        """Warn where a position stands out, once for each owner."""
        by_owner: dict[int, tuple[object, list[tuple[str, Norms]]]] = {}
        for owner, site, norms in self.noted:
            _, by_site = by_owner.setdefault(id(owner), (owner, []))
            by_site.append((site, norms))
        for owner, by_site in by_owner.values():
            warn_once(owner, by_site)


_notes: ContextVar[Notes | None] = ContextVar("notes", default=None)
_is_silent: ContextVar[bool] = ContextVar("is_silent", default=False)


@contextmanager
def outliers_unreported() -> Iterator[None]:
    """A context without warnings of outliers. `warnings.catch_warnings` would alter those of other threads."""
    token = _is_silent.set(True)
    try:
        yield
    finally:
        _is_silent.reset(token)


@contextmanager
def norms_noted() -> Iterator[Notes]:
    """A context that collects the norms of activations that means are taken over."""
    notes = Notes()
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


def note(owner: object, site: object, norms: Norms) -> None:
    """Note norms of a run's own activation, inside a `norms_noted` context."""
    notes = _notes.get()
    if notes is not None and id(owner) not in _warned:
        notes.noted.append((owner, str(site), norms))


def norms_of(array: mx.array, pos_axis: int, positions: Sequence[int]) -> Norms:
    """The norm at each position, the mean over rows. Shape of `array`: batch, and positions along `pos_axis`."""
    feature_axes = [axis for axis in range(1, array.ndim) if axis != pos_axis]
    array = wide(array)
    norms = mx.sqrt(mx.sum(array * array, axis=feature_axes))
    return Norms(positions, norms.mean(axis=0))


def warn_once(owner: object, by_site: Sequence[tuple[str, Norms]]) -> None:
    """Warn of the position that stands out most, if one does and this owner has not warned yet.

    Args:
        owner: The object that takes the mean.
        by_site: The sites, and the norms of the activations that it is taken of.

    Warns:
        OutlierPositionWarning: It has more than 30 times the median position's norm.
    """
    if id(owner) in _warned:
        return
    mx.eval([norms.values for _, norms in by_site])
    evaluated = [(site, norms.positions, np.array(norms.values)) for site, norms in by_site]
    if warn_of(evaluated):
        _warned.add(id(owner))
        weakref.finalize(owner, _warned.discard, id(owner))


def warn_of(by_site: Iterable[tuple[str, Sequence[int], np.ndarray]]) -> bool:
    """Warn of the position that stands out most; whether one does.

    Args:
        by_site: The activations that a mean is taken of: a site, the positions, and the norm at each.
    Warns:
        OutlierPositionWarning: It has more than 30 times the median position's norm.
    """
    outliers = [_outlier(site, positions, norms) for site, positions, norms in by_site]
    outliers = [outlier for outlier in outliers if outlier is not None]
    if not outliers or _is_silent.get():
        return False
    _, text = max(outliers)
    warnings.warn(text, OutlierPositionWarning, stacklevel=2)
    return True


def _outlier(site: str, positions: Sequence[int], norms: np.ndarray) -> tuple[float, str] | None:
    """The largest norm in multiples of the median, and the text of a warning; None where it does not stand out."""
    if len(norms) < 3:
        return None
    index = int(np.argmax(norms))
    longest, median = norms[index], float(np.median(norms))
    if not longest > TIMES_MEDIAN * median:
        return None
    position = int(positions[index])
    times = float(longest) / median if median else float("inf")
    remedy = f"Leave it out with `skip={position + 1}`"
    if position >= _FIRST:
        remedy = "Take the mean of activations without it"
    return times, (
        f"position {position} dominates the mean at {site}: its norm of {longest:.4g} is {times:.4g} times the median "
        f'position\'s, {median:.4g}. {remedy}, or take the mean of each position: `over="batch"`.'
    )
