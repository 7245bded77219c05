"""From cells to numbers: plans, passes, checkpoints, ranks."""

from mlx_patch.execution._execute import SweepOutcome as SweepOutcome
from mlx_patch.execution._execute import plan_experiment as plan_experiment
from mlx_patch.execution._execute import run_experiment as run_experiment
from mlx_patch.execution._experiment import Experiment as Experiment
