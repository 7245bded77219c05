"""The forward passes: the unpatched run, and many cells in one pass."""

from mlx_patch.execution.passes._cell_rows import CellRows as CellRows
from mlx_patch.execution.passes._forward import forward as forward
from mlx_patch.execution.passes._from_host_run import from_host_run as from_host_run
from mlx_patch.execution.passes._pass_run import PassRun as PassRun
from mlx_patch.execution.passes._tasks import PassTask as PassTask
from mlx_patch.execution.passes._tasks import UnpatchedTask as UnpatchedTask
from mlx_patch.execution.passes._unpatched import UnpatchedRun as UnpatchedRun
from mlx_patch.execution.passes._unpatched import run_unpatched as run_unpatched
