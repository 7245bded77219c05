"""`Reference`: one full forward pass per cell. The other executors are compared with it."""

from collections.abc import Sequence
from typing import final

import mlx.core as mx
from typing_extensions import override

from mlx_patch.architectures import Layout
from mlx_patch.execution.cells import Cell
from mlx_patch.execution.executors._executor import Executor, PassValues
from mlx_patch.execution.passes import PassTask, UnpatchedRun
from mlx_patch.execution.plan import CellStart
from mlx_patch.model import run


@final
class Reference(Executor):
    """`model.run` with the edits of each cell: nothing is shared."""

    name = "reference"
    description = "one full forward pass per cell"
    one_cell_a_pass = True

    @override
    def why_not(self, layout: Layout, cells: Sequence[Cell]) -> str:
        return ""

    @override
    def entry(self, cell: CellStart) -> int:
        return 0

    @override
    def run(self, task: PassTask, unpatched: UnpatchedRun) -> PassValues:
        length = task.tokens.shape[1]
        readout = task.readout
        runs = [run(task.layout, task.tokens, cell.run_edits, logits_at=readout.at) for cell in task.cells]
        values = [readout.measure(cell_run.logits, length) for cell_run in runs]
        n_layers = len(task.layout.blocks)
        token_layers = task.tokens.size * n_layers * len(task.cells)
        return mx.stack(values), lambda: token_layers
