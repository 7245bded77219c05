"""From cells to numbers: plans, passes, checkpoints, ranks."""

from mlx_patch.execution._execute import SweepOutcome as SweepOutcome
from mlx_patch.execution._execute import measure_cells as measure_cells
from mlx_patch.execution._execute import plan_experiment as plan_experiment
from mlx_patch.execution._execute import run_experiment as run_experiment
from mlx_patch.execution._experiment import Experiment as Experiment
from mlx_patch.execution._labels import described_experiment as described_experiment
from mlx_patch.execution._labels import labelled as labelled
from mlx_patch.execution.progress import Numbers as Numbers
from mlx_patch.execution.progress import no_numbers as no_numbers
