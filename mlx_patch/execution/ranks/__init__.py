"""The processes that divide a sweep, and Ctrl-C."""

from mlx_patch.execution.ranks._interrupts import interrupts_held as interrupts_held
from mlx_patch.execution.ranks._ranks import Ranks as Ranks
from mlx_patch.execution.ranks._ranks import ranks_of as ranks_of
