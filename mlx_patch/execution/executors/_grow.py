"""`Grow`: rows join the batch at the first block that their cell changes."""

from collections.abc import Sequence
from typing import final

from typing_extensions import override

from mlx_patch.architectures import Layout, more_than_stream
from mlx_patch.execution.cells import Cell, unpatched_sites
from mlx_patch.execution.executors._executor import Executor, PassValues
from mlx_patch.execution.executors._shared_pass import run_shared_pass
from mlx_patch.execution.passes import PassTask, UnpatchedRun
from mlx_patch.execution.plan import CellStart
from mlx_patch.sites import Site


@final
class Grow(Executor):
    """The cheapest executor: everything below a cell's first changed block comes from the unpatched run."""

    name = "grow"
    description = "each row begins at the first block that its cell changes"
    preference = 0
    whole_rows = False

    @override
    def why_not(self, layout: Layout, cells: Sequence[Cell]) -> str:
        if why := more_than_stream(layout):
            return why
        if any(cell.entry is None for cell in cells):
            return "a cell edits a module whose block is unknown"
        return ""

    @override
    def entry(self, cell: CellStart) -> int:
        return cell.entry or 0

    @override
    def unpatched_sites(self, layout: Layout, cells: Sequence[Cell]) -> tuple[Site, ...]:
        return unpatched_sites(layout, cells)

    @override
    def run(self, task: PassTask, unpatched: UnpatchedRun) -> PassValues:
        return run_shared_pass(task, unpatched, grow=True)
