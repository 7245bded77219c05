"""`fuzz_sweeps`: many random sweeps against plain runs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import mlx.core as mx
from typing_extensions import override

from mlx_patch.errors import ValueRefusedError
from mlx_patch.model import HookedModel
from mlx_patch.testing._fuzz._check import check_case
from mlx_patch.testing._fuzz._draw import draw_case
from mlx_patch.testing._fuzz._models import model_of
from mlx_patch.testing._fuzz._shrink import shrunk


@dataclass(frozen=True)
class FuzzReport:
    """What random sweeps gave. Printed, it says so, with the seed and each difference.

    Attributes:
        seed: Of the sweeps.
        sweeps: How many there were.
        compared: Cells whose numbers were compared with those of plain runs.
        refused: Cells that plain runs refuse, and so must sweeps.
        unstable: Cells that differ by no more than a rounding of the stream makes of them.
        differences: What differed, each with the call that runs it again.
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
    """Compare random sweeps, and other ways to the same numbers, with one plain run a cell.

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
    if cases < 1:
        raise ValueRefusedError(f"`cases` must be 1 or more. Got {cases}.")
    with _uncompiled():
        return _fuzzed(seed, cases, models, only, stop_after, progress)


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Without compiled parts, which MLX's CPU backend compiles anew with a C++ compiler for many a shape."""
    mx.disable_compile()
    try:
        yield
    finally:
        mx.enable_compile()


def _fuzzed(
    seed: int,
    cases: int,
    models: Sequence[str] | Mapping[str, HookedModel] | None,
    only: int | None,
    stop_after: int,
    progress: Callable[[int], None] | None,
) -> FuzzReport:
    own = models if isinstance(models, Mapping) else {}
    names = None if models is None else tuple(models)
    compared, refused, unstable, sweeps, number = 0, 0, 0, 0, only or 0
    differences: list[str] = []
    while not sweeps or (only is None and compared + refused < cases and len(differences) < stop_after):
        case = draw_case(seed, number, names, own)
        model = own[case.model] if case.model in own else model_of(case.model, case.precision)
        outcome = check_case(model, case)
        compared, refused = compared + outcome.compared, refused + outcome.refused
        unstable += outcome.unstable
        if outcome.differences:
            smallest, left = shrunk(model, case, outcome.differences)
            head = f"fuzz_sweeps({seed}, models={models and list(models)!r}, only={number}) differs:"
            differences.append("\n".join((head, str(smallest), *(f"{one.how}: {one.what}" for one in left))))
        sweeps, number = sweeps + 1, number + 1
        if progress is not None:
            progress(compared + refused)
    return FuzzReport(seed, sweeps, compared, refused, unstable, tuple(differences))
