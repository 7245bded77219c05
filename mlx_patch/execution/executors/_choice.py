"""Which executor runs a sweep: the first by preference that can run its cells, and why no cheaper one can."""

from collections.abc import Iterable, Sequence

from mlx_patch.architectures import Layout
from mlx_patch.errors import ArchitectureError, UnknownNameError, did_you_mean
from mlx_patch.execution.cells import Cell
from mlx_patch.execution.executors._executor import Executor

AUTO = "auto"
"""The name that lets the library choose."""


def executors() -> dict[str, Executor]:
    """Every executor by its name, those that "auto" tries first, in their turn."""
    found = [kind() for kind in Executor.__subclasses__()]
    found.sort(key=lambda executor: (executor.preference is None, executor.preference))
    return {executor.name: executor for executor in found}


def choose_executor(
    wanted: str, layout: Layout, cells: Sequence[Cell], generates: bool = False
) -> tuple[Executor, str]:
    """The executor that runs some cells, and why no cheaper one can.

    Args:
        wanted: "auto", or the name of an executor.
        layout: The model's layout.
        cells: All cells.
        generates: Whether text is generated after the edited prompts, which needs whole rows.
    Raises:
        UnknownNameError: There is no such executor.
        ArchitectureError: It cannot run these cells on this architecture.
    """
    known = executors()
    if wanted not in (*known, AUTO):
        near = did_you_mean(str(wanted), (*known, AUTO))
        raise UnknownNameError(f"`executor` must be the name of one. Got {wanted!r}. {near}")
    if wanted == AUTO:
        chosen, why = _first_that_serves(known.values(), layout, cells)
    else:
        chosen, why = known[wanted], ""
        if reason := chosen.why_not(layout, cells):
            raise ArchitectureError(
                f"`executor` must be one that can run these cells. Got {wanted!r}, but {reason}. Use 'auto'."
            )
    if generates and not chosen.whole_rows:
        return next(executor for executor in known.values() if executor.whole_rows), ""
    return chosen, why


def _first_that_serves(known: Iterable[Executor], layout: Layout, cells: Sequence[Cell]) -> tuple[Executor, str]:
    """The first by preference without a reason against it, and the reason against the very first."""
    preferred = [executor for executor in known if executor.preference is not None]
    reasons = [executor.why_not(layout, cells) for executor in preferred]
    return preferred[reasons.index("")], reasons[0]
