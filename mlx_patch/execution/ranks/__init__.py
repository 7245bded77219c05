"""The processes that divide a sweep, and Ctrl-C."""

from mlx_patch.execution.ranks._ranks import Ranks as Ranks
from mlx_patch.execution.ranks._ranks import ranks_of as ranks_of
