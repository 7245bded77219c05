"""One random sweep against its truth, by all the ways that must give the same."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_patch.errors import OutlierPositionWarning, PatchError
from mlx_patch.interventions import Apply, Edit
from mlx_patch.laws import ROUNDINGS
from mlx_patch.model import HookedModel
from mlx_patch.sites import Site
from mlx_patch.testing._fuzz._case import Case
from mlx_patch.testing._fuzz._models import rounding_of
from mlx_patch.testing._fuzz._truth import largest_logit, truth_of
from mlx_patch.testing._fuzz._ways import NumbersOf, ways

_MAY_REFUSE = (
    "`executor` must be 'reference'",
    "`executor` must be one that can run these cells",
    "`batch` must be left out where prompts differ in length",
    "Leave `pos` out, or choose a named site",  # a raw path that has another shape in a batch
    "Choose a named site, or run the prompts one by one",
)
"""What only a sweep refuses, with a remedy that runs."""

_CLOSE = 2e-5
"""What a number in float32 may differ by, as a fraction of the largest logit."""

_JITTERS = 3

_ILL_CONDITIONED = 64
"""How many times as far off as a run whose stream is jittered by a rounding a cell may be."""


@dataclass(frozen=True)
class Difference:
    """A number that is not what a plain run gives.

    Attributes:
        how: By which way.
        what: What was found, and what is right.
    """

    how: str
    what: str


@dataclass
class Outcome:
    """What became of the cells of one sweep.

    Attributes:
        compared: How many had numbers that were compared.
        refused: How many were refused by plain runs, and by the sweep.
        unstable: How many differed by no more than rounding makes of them.
        differences: What differed.
    """

    compared: int = 0
    refused: int = 0
    unstable: int = 0
    differences: tuple[Difference, ...] = ()


def check_case(model: HookedModel, case: Case) -> Outcome:
    """Run a case, and compare it with its truth."""
    with warnings.catch_warnings():  # a mean may be worth little, and still be the right number
        warnings.simplefilter("ignore", OutlierPositionWarning)
        return _outcome(model, case)


def _outcome(model: HookedModel, case: Case) -> Outcome:
    truths = dict(enumerate(truth_of(model, case, cell) for cell in case.cells.edits()))
    right = {n: truth for n, truth in truths.items() if isinstance(truth, np.ndarray)}
    wrong = {n: str(truth) for n, truth in truths.items() if n not in right}
    outcome = Outcome(compared=len(right), refused=len(wrong))
    found: list[Difference] = []
    for n, error in wrong.items():
        found += _accepted(model, replace(case, cells=case.cells.some([n])), error)
    if right:
        kept = replace(case, cells=case.cells.some(list(right))) if wrong else case
        numbers = np.stack(list(right.values()))
        for how, numbers_of in ways(model, kept):
            found += _compared(model, kept, how, numbers_of, numbers, outcome)
    outcome.differences = tuple(found)
    return outcome


def _accepted(model: HookedModel, case: Case, error: str) -> Iterator[Difference]:
    """What gives a number where plain runs refuse."""
    for how, numbers_of in ways(model, case):
        found = _attempt(numbers_of)
        if how != "by hand" and not isinstance(found, PatchError):
            yield Difference(how, f"got {found!s}, where a plain run refuses: {error}")


def _compared(
    model: HookedModel, case: Case, how: str, numbers_of: NumbersOf, truth: np.ndarray, outcome: Outcome
) -> Iterator[Difference]:
    found = _attempt(numbers_of)
    if isinstance(found, PatchError) and any(text in str(found) for text in _MAY_REFUSE):
        return
    if not isinstance(found, np.ndarray):
        yield Difference(how, f"{type(found).__name__}: {found}, where a plain run gives {truth[: len(truth)]!s}")
        return
    wanted = truth[: len(found)]
    if _same(found, wanted, tolerance_of(model, case)):
        return
    if _same(found, wanted, tolerance_of(model, case) + _ILL_CONDITIONED * _spread(model, case, len(found), wanted)):
        outcome.unstable += 1
        return
    yield Difference(how, f"got {found!s}, where plain runs give {wanted!s}")


def _attempt(numbers_of: NumbersOf) -> Any:
    """Numbers, or whatever error there is instead: one that is not the library's own is a difference too."""
    try:
        return numbers_of()
    except (PatchError, ArithmeticError, LookupError, TypeError, ValueError, RuntimeError) as error:
        return error


def tolerance_of(model: HookedModel, case: Case) -> float:
    """What rounding may make of a number: sums are reordered in each block, one on top of the other."""
    rounded = model.n_layers * ROUNDINGS * rounding_of(model)
    return max(_CLOSE, min(rounded, 0.25)) * max(1.0, largest_logit(model, case))


def _same(found: np.ndarray, wanted: np.ndarray, tolerance: float | np.ndarray) -> bool:
    """Whether numbers agree; one that is not finite agrees with another such."""
    both = ~np.isfinite(found) & ~np.isfinite(wanted)
    with np.errstate(invalid="ignore"):
        close = np.abs(found - wanted) <= tolerance
    return found.shape == wanted.shape and bool((close | both).all())


def _spread(model: HookedModel, case: Case, cells: int, wanted: np.ndarray) -> np.ndarray:
    """How far the truth moves with a jittered stream: far, where a rounding decides which experts run."""
    size = rounding_of(model)
    moved = np.zeros_like(wanted)
    for seed in range(_JITTERS):
        for n, cell in enumerate(case.cells.edits()[:cells]):
            again = truth_of(model, case, cell, [_jitter(size, seed)])
            if isinstance(again, np.ndarray):
                moved[n] = np.fmax(moved[n], np.abs(again - wanted[n]))
    return moved


def _jitter(size: float, seed: int) -> Edit:
    def jittered(stream: mx.array, site: Site) -> mx.array:
        noise = mx.random.normal(stream.shape, key=mx.random.key(seed * 1000 + (site.layer or 0)))
        return stream.astype(mx.float32) * (1.0 + size * noise)

    return Apply(jittered).at("resid_pre")
