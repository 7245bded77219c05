"""How the cells of a sweep run: one executor per file. Every executor here can be chosen by its name."""

from importlib import import_module
from pkgutil import iter_modules

from mlx_patch.execution.executors._choice import choose_executor as choose_executor
from mlx_patch.execution.executors._choice import executors as executors
from mlx_patch.execution.executors._executor import Executor as Executor
from mlx_patch.execution.executors._executor import PassTask as PassTask
from mlx_patch.execution.executors._executor import PassValues as PassValues

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
