"""Compares one random sweep with plain runs, in every way that must give the same numbers."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_patch.errors import PatchError
from mlx_patch.interventions import Apply, Edit
from mlx_patch.interventions.sources import outliers_unreported
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
    "`batch` must be left out if prompts differ in length",
    "Leave `pos` out, or choose a named site",  # a raw path that has another shape in a batch
    "Choose a named site, or run the prompts one by one",
    "must not attend to keys that the prompt cache no longer holds",  # behind a window, where the whole prompt has them
)
"""Refusals of a sweep alone, whose remedy runs."""

_CLOSE = 2e-5
"""The tolerance of a number in float32, as a fraction of the largest logit."""

_JITTERS = 3

_ILL_CONDITIONED = 64
"""The tolerance of a cell, as a multiple of its deviation when the stream is jittered by a rounding."""


@dataclass(frozen=True)
class Difference:
    """A number that differs from that of a plain run.

    Attributes:
        how: The way in which it was computed.
        what: The number, and the right one.
    """

    how: str
    what: str


@dataclass
class Outcome:
    """The result of checking one sweep.

    Attributes:
        compared: How many cells had numbers that were compared.
        refused: How many cells were refused by plain runs.
        unstable: How many numbers differed by no more than rounding explains.
        differences: The numbers that differ.
    """

    compared: int = 0
    refused: int = 0
    unstable: int = 0
    differences: tuple[Difference, ...] = ()


def check_case(model: HookedModel, case: Case) -> Outcome:
    """Run a case, and compare it with its truth."""
    with outliers_unreported():  # a mean may be a poor ablation, and still be the right number
        return _check(model, case)


def _check(model: HookedModel, case: Case) -> Outcome:
    numbers: dict[int, np.ndarray] = {}
    errors: dict[int, str] = {}
    for index, cell in enumerate(case.cells.edits()):
        truth = truth_of(model, case, cell)
        if isinstance(truth, np.ndarray):
            numbers[index] = truth
        else:
            errors[index] = str(truth)
    outcome = Outcome(compared=len(numbers), refused=len(errors))
    differences: list[Difference] = []
    for index, error in errors.items():
        refused = replace(case, cells=case.cells.some([index]))
        differences += _accepted(model, refused, error)
    if numbers:
        if errors:
            case = replace(case, cells=case.cells.some(list(numbers)))
        expected = np.stack(list(numbers.values()))
        for how, numbers_of in ways(model, case):
            differences += _compare(model, case, how, numbers_of, expected, outcome)
    outcome.differences = tuple(differences)
    return outcome


def _accepted(model: HookedModel, case: Case, error: str) -> Iterator[Difference]:
    """The ways that give a number where plain runs refuse."""
    for how, numbers_of in ways(model, case):
        result = _attempt(numbers_of)
        if how != "by hand" and not isinstance(result, PatchError):
            yield Difference(how, f"got {result!s}, where a plain run refuses: {error}")


def _compare(
    model: HookedModel, case: Case, how: str, numbers_of: NumbersOf, truth: np.ndarray, outcome: Outcome
) -> Iterator[Difference]:
    result = _attempt(numbers_of)
    if isinstance(result, PatchError) and any(text in str(result) for text in _MAY_REFUSE):
        return
    if not isinstance(result, np.ndarray):
        yield Difference(how, f"{type(result).__name__}: {result}, where a plain run gives {truth!s}")
        return
    expected, tolerance = truth[: len(result)], tolerance_of(model, case)
    if _same(result, expected, tolerance):
        return
    spread = _spread(model, case, len(result), expected)
    if _same(result, expected, tolerance + _ILL_CONDITIONED * spread):
        outcome.unstable += 1
        return
    yield Difference(how, f"got {result!s}, where plain runs give {expected!s}")


def _attempt(numbers_of: NumbersOf) -> Any:
    """Numbers, or the error that was raised: one that is not the library's own is a difference too."""
    try:
        return numbers_of()
    except (PatchError, ArithmeticError, LookupError, TypeError, ValueError, RuntimeError) as error:
        return error


def tolerance_of(model: HookedModel, case: Case) -> float:
    """The tolerance of rounding: sums are reordered in each block, and the deviations add up."""
    rounded = model.n_layers * ROUNDINGS * rounding_of(model)
    return max(_CLOSE, min(rounded, 0.25)) * max(1.0, largest_logit(model, case))


def _same(numbers: np.ndarray, expected: np.ndarray, tolerance: float | np.ndarray) -> bool:
    """Whether numbers agree; a number that is not finite agrees with any other such."""
    not_finite = ~np.isfinite(numbers) & ~np.isfinite(expected)
    with np.errstate(invalid="ignore"):
        is_close = np.abs(numbers - expected) <= tolerance
    return numbers.shape == expected.shape and bool((is_close | not_finite).all())


def _spread(model: HookedModel, case: Case, n_cells: int, expected: np.ndarray) -> np.ndarray:
    """How far plain runs move with a jittered stream: far, where a rounding decides which experts run."""
    size = rounding_of(model)
    spread = np.zeros_like(expected)
    for seed in range(_JITTERS):
        for index, cell in enumerate(case.cells.edits()[:n_cells]):
            jittered = truth_of(model, case, cell, [_jitter(size, seed)])
            if isinstance(jittered, np.ndarray):
                change = np.abs(jittered - expected[index])
                spread[index] = np.fmax(spread[index], change)
    return spread


def _jitter(size: float, seed: int) -> Edit:
    def jitter(stream: mx.array, site: Site) -> mx.array:
        key = mx.random.key(seed * 1000 + (site.layer or 0))
        noise = mx.random.normal(stream.shape, key=key)
        return stream.astype(mx.float32) * (1.0 + size * noise)

    return Apply(jitter).at("resid_pre")
