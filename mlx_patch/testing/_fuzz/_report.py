"""`fuzz_sweeps`: many random sweeps against plain runs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import mlx.core as mx
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.model import HookedModel
from mlx_patch.testing._fuzz._check import Outcome, check_case
from mlx_patch.testing._fuzz._draw import draw_case
from mlx_patch.testing._fuzz._models import model_of
from mlx_patch.testing._fuzz._shrink import shrink


@dataclass(frozen=True)
class FuzzReport:
    """The result of random sweeps. Printed, it has the seed and each difference.

    Attributes:
        seed: The seed of the sweeps.
        sweeps: How many sweeps ran.
        compared: Cells whose numbers were compared with those of plain runs.
        refused: Cells that plain runs refuse, and so must sweeps.
        unstable: Cells that differ by no more than a rounding of the stream explains.
        differences: The sweeps that differ, each with the call that runs it again.
    """

    seed: int
    sweeps: int
    compared: int
    refused: int
    unstable: int
    differences: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing differed."""
        return not self.differences

    @property
    def cases(self) -> int:
        """How many cells there were."""
        return self.compared + self.refused

    @override
    def __str__(self) -> str:
        head = (
            f"seed {self.seed}: {self.cases} cells in {self.sweeps} sweeps; {self.compared} compared, {self.refused} "
            f"refused by both, {self.unstable} undecided by rounding, {len(self.differences)} sweeps differ"
        )
        return "\n\n".join((head, *self.differences))


def fuzz_sweeps(
    seed: int = 0,
    cases: int = 200,
    models: Sequence[str] | Mapping[str, HookedModel] | None = None,
    only: int | None = None,
    stop_after: int = 5,
    progress: Callable[[int], None] | None = None,
) -> FuzzReport:
    """Compare random sweeps, and other ways to the same numbers, with one plain run per cell.

    A sweep is drawn from the seed and its number: a model, prompts (a batch, or a list of any lengths), cells of one
    to three edits, what metrics read, the executor, the memory, the pieces. Each cell is a case.

    Args:
        seed: What is drawn depends on it and on `models`, and on nothing else.
        cases: Cells, at least; the last sweep may bring a few more.
        models: Names of the zoo to draw from, or models of your own by name; None is the whole zoo.
        only: Run the sweep of this number alone, as a report names it.
        stop_after: Sweeps that differ, after which it ends.
        progress: Told the number of cases so far.
    Returns:
        What differed: for each such sweep the smallest part of it that still differs.
    Raises:
        ValueRefusedError: `cases` is less than 1.
    """
    seed = arguments.whole_number("seed", seed, 0)
    cases = arguments.whole_number("cases", cases, 1)
    if models is not None and not isinstance(models, Mapping):
        models = arguments.entries("models", models, "names of the zoo, or models by name")
    if progress is not None:
        progress = arguments.function("progress", progress, "a function of the number of cases")
    stop_after = arguments.whole_number("stop_after", stop_after, 1)
    if only is not None:
        only = arguments.whole_number("only", only, 0)
    with _uncompiled():
        return _fuzz(seed, cases, models, only, stop_after, progress)


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Turn off `mx.compile`, for which MLX's CPU backend runs a C++ compiler for many shapes."""
    mx.disable_compile()
    try:
        yield
    finally:
        mx.enable_compile()


def _fuzz(
    seed: int,
    cases: int,
    models: Sequence[str] | Mapping[str, HookedModel] | None,
    only: int | None,
    stop_after: int,
    progress: Callable[[int], None] | None,
) -> FuzzReport:
    wrapped: Mapping[str, HookedModel] = {}
    if isinstance(models, Mapping):
        wrapped = models
    names = None
    if models is not None:
        names = tuple(models)
    first = only or 0
    outcomes: list[Outcome] = []
    differences: list[str] = []
    n_cells = 0
    while not outcomes or (only is None and n_cells < cases and len(differences) < stop_after):
        number = first + len(outcomes)
        case = draw_case(seed, number, names, wrapped)
        if case.model in wrapped:
            model = wrapped[case.model]
        else:
            model = model_of(case.model, case.precision)
        outcome = check_case(model, case)
        outcomes.append(outcome)
        n_cells += outcome.compared + outcome.refused
        if outcome.differences:
            call = f"fuzz_sweeps({seed}, models={models and list(models)!r}, only={number})"
            smallest, remaining = shrink(model, case, outcome.differences)
            lines = [f"{difference.how}: {difference.what}" for difference in remaining]
            differences.append("\n".join((f"{call} differs:", str(smallest), *lines)))
        if progress is not None:
            progress(n_cells)
    n_compared = sum(outcome.compared for outcome in outcomes)
    n_refused = sum(outcome.refused for outcome in outcomes)
    n_unstable = sum(outcome.unstable for outcome in outcomes)
    return FuzzReport(seed, len(outcomes), n_compared, n_refused, n_unstable, tuple(differences))
