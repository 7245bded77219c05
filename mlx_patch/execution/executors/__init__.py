"""How the cells of a sweep run: one executor per file. Every executor here can be chosen by its name."""

from mlx_patch._presence import import_modules
from mlx_patch.execution.executors._choice import choose_executor as choose_executor
from mlx_patch.execution.executors._choice import executors as executors
from mlx_patch.execution.executors._executor import Executor as Executor
from mlx_patch.execution.executors._executor import PassValues as PassValues
from mlx_patch.execution.passes import PassTask as PassTask

import_modules(__name__, __path__)
