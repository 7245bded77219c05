"""Which cells share a pass, and what that costs."""

from mlx_patch.execution.plan._costs import Footprint as Footprint
from mlx_patch.execution.plan._costs import bounds_of as bounds_of
from mlx_patch.execution.plan._costs import footprint as footprint
from mlx_patch.execution.plan._costs import pieces_of as pieces_of
from mlx_patch.execution.plan._packing import Bounds as Bounds
from mlx_patch.execution.plan._packing import CellStart as CellStart
from mlx_patch.execution.plan._packing import Pass as Pass
from mlx_patch.execution.plan._packing import Plan as Plan
from mlx_patch.execution.plan._packing import make_plan as make_plan
from mlx_patch.execution.plan._packing import minimum_of as minimum_of
from mlx_patch.execution.plan._plan import PromptGroup as PromptGroup
from mlx_patch.execution.plan._shares import loads as loads
from mlx_patch.execution.plan._shares import shares as shares
