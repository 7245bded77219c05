"""Which executor runs a sweep: the first by preference that can run its cells, and why no cheaper one can."""

from collections.abc import Iterable, Sequence

from mlx_patch import arguments
from mlx_patch.architectures import Layout
from mlx_patch.errors import ArchitectureError, shown
from mlx_patch.execution.cells import Cell
from mlx_patch.execution.executors._executor import Executor

AUTO = "auto"
"""The name that lets the library choose."""


def executors() -> dict[str, Executor]:
    """All executors by their names, in the order in which "auto" tries them; those that it does not try come last."""
    ordered = sorted((kind() for kind in Executor.__subclasses__()), key=_sort_key)
    return {executor.name: executor for executor in ordered}


def _sort_key(executor: Executor) -> tuple[bool, int | None]:
    return executor.preference is None, executor.preference


def choose_executor(
    name: str, layout: Layout, cells: Sequence[Cell], needs_whole_rows: bool = False
) -> tuple[Executor, str]:
    """The executor that runs some cells, and why no cheaper one can.

    Args:
        name: "auto", or the name of an executor.
        layout: The model's layout.
        cells: All cells.
        needs_whole_rows: Whether each row must run through all blocks.
    Raises:
        UnknownNameError: There is no such executor.
        ArchitectureError: It cannot run these cells on this architecture.
    """
    by_name = executors()
    name = arguments.choice("executor", name, (*by_name, AUTO), "the name of an executor")
    if name == AUTO:
        executor, why = _choose_preferred(by_name.values(), layout, cells)
    else:
        executor, why = by_name[name], ""
        reason = executor.why_not(layout, cells)
        if reason:
            raise ArchitectureError(
                f"`executor` must be one that can run these cells. Got {shown(name)}, but {reason}. Use 'auto'."
            )
    if needs_whole_rows and not executor.whole_rows:
        return next(candidate for candidate in by_name.values() if candidate.whole_rows), ""
    return executor, why


def _choose_preferred(candidates: Iterable[Executor], layout: Layout, cells: Sequence[Cell]) -> tuple[Executor, str]:
    """The first by preference without a reason against it, and the reason against the very first."""
    preferred = [executor for executor in candidates if executor.preference is not None]
    reasons = [executor.why_not(layout, cells) for executor in preferred]
    return preferred[reasons.index("")], reasons[0]
