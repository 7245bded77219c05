"""`WholeRows`: every row runs through all blocks."""

from collections.abc import Sequence
from typing import final

from typing_extensions import override

from mlx_patch.architectures import Layout
from mlx_patch.execution.cells import Cell
from mlx_patch.execution.executors._executor import Executor, PassValues
from mlx_patch.execution.executors._shared_pass import run_shared_pass
from mlx_patch.execution.passes import PassTask, UnpatchedRun
from mlx_patch.execution.plan import CellStart


@final
class WholeRows(Executor):
    """Cells share a forward pass and the positions before their first edit. It serves every architecture."""

    name = "rows"
    description = "every row runs through all blocks"
    preference = 1

    @override
    def why_not(self, layout: Layout, cells: Sequence[Cell]) -> str:
        return ""

    @override
    def entry(self, cell: CellStart) -> int:
        return 0

    @override
    def run(self, task: PassTask, unpatched: UnpatchedRun) -> PassValues:
        return run_shared_pass(task, unpatched, grow=False)
