"""Positions that a mean is mostly made of: attention sinks, whose activation is hundreds of times longer than others.

Norms of a run's own activations are known when it is evaluated, and not in its forward pass: whoever runs a model notes
them meanwhile and warns afterwards. Elsewhere (inside `editing`, in a trial on zeros) none are noted.
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
"""How many times the median position's norm is far too much for a mean over positions."""

_FIRST = 4
"""Sinks are among so many first positions; one behind them is no matter of `skip`."""

_warned: set[int] = set()
"""Who has warned and is still there, by its `id`."""


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
    """The norms of a run's own activations, unevaluated, with who takes their mean."""

    noted: list[tuple[object, str, Norms]] = field(default_factory=list)

    @property
    def arrays(self) -> list[mx.array]:
        """What is to be evaluated with the run."""
        return [norms.values for _, _, norms in self.noted]

    def warn(self) -> None:
        """Warn where a position stands out, once for each owner."""
        owners = {id(owner): owner for owner, _, _ in self.noted}
        for owner in owners.values():
            warn_once(owner, [(site, norms) for other, site, norms in self.noted if other is owner])


_notes: ContextVar[Notes | None] = ContextVar("notes", default=None)


@contextmanager
def norms_noted() -> Iterator[Notes]:
    """A context in which the norms of what means are taken over are noted."""
    notes = Notes()
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


def note(owner: object, site: object, norms: Norms) -> None:
    """Note norms of a run's own activation, where somebody evaluates them."""
    notes = _notes.get()
    if notes is not None and id(owner) not in _warned:
        notes.noted.append((owner, str(site), norms))


def norms_of(array: mx.array, pos_axis: int, positions: Sequence[int]) -> Norms:
    """The norm at each position, the mean over rows. Shape of `array`: batch, and positions along `pos_axis`."""
    others = [axis for axis in range(1, array.ndim) if axis != pos_axis]
    array = wide(array)
    return Norms(positions, mx.sqrt(mx.sum(array * array, axis=others)).mean(axis=0))


def warn_once(owner: object, by_site: Sequence[tuple[str, Norms]]) -> None:
    """Warn of the position that stands out most, if one does and this owner has not warned yet.

    Args:
        owner: Who takes the mean.
        by_site: What it is taken of.

    Warns:
        OutlierPositionWarning: It has more than 30 times the median position's norm.
    """
    if id(owner) in _warned:
        return
    mx.eval([norms.values for _, norms in by_site])
    if warn_of([(site, norms.positions, np.array(norms.values)) for site, norms in by_site]):
        _warned.add(id(owner))
        weakref.finalize(owner, _warned.discard, id(owner))


def warn_of(by_site: Iterable[tuple[str, Sequence[int], np.ndarray]]) -> bool:
    """Warn of the position that stands out most; whether one does.

    Args:
        by_site: What a mean is taken of: a site, the positions, and the norm at each.
    Warns:
        OutlierPositionWarning: It has more than 30 times the median position's norm.
    """
    found = [text for text in (_outlier(*norms) for norms in by_site) if text is not None]
    if not found:
        return False
    _, text = max(found)
    warnings.warn(text, OutlierPositionWarning, stacklevel=2)
    return True


def _outlier(site: str, positions: Sequence[int], norms: np.ndarray) -> tuple[float, str] | None:
    """By how much the longest position stands out, and what to say of it; None where it does not."""
    if len(norms) < 3:
        return None
    longest, median = int(np.argmax(norms)), float(np.median(norms))
    if not norms[longest] > TIMES_MEDIAN * median:
        return None
    position, times = int(positions[longest]), float(norms[longest]) / median if median else float("inf")
    remedy = f"Leave it out with `skip={position + 1}`"
    if position >= _FIRST:
        remedy = "Take the mean of activations without it"
    return times, (
        f"the mean at {site} is mostly that of position {position}, whose norm of {norms[longest]:.4g} is {times:.4g} "
        f'times the median position\'s, {median:.4g}. {remedy}, or take the mean of each position: `over="batch"`.'
    )
