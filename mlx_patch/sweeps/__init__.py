"""Sweeps: what they measured, with statistics over examples, files and plots."""

from mlx_patch.execution.plan import Plan as Plan
from mlx_patch.execution.plan import pieces_of as pieces_of
from mlx_patch.results import PairResult as PairResult
from mlx_patch.results import PairRow as PairRow
from mlx_patch.results import PairSummary as PairSummary
from mlx_patch.results import Peak as Peak
from mlx_patch.results import StoredPlan as StoredPlan
from mlx_patch.results import SweepResult as SweepResult
from mlx_patch.sweeps._check import check_sweeps as check_sweeps
from mlx_patch.sweeps._experiment import make_experiment as make_experiment
from mlx_patch.sweeps._law import exact_sweeps as exact_sweeps
from mlx_patch.sweeps._law_rows import independent_in_sweeps as independent_in_sweeps
from mlx_patch.sweeps._measure import measure as measure
from mlx_patch.sweeps._sweep import plan as plan
from mlx_patch.sweeps._sweep import sweep as sweep
from mlx_patch.sweeps._sweep_pair import sweep_pair as sweep_pair
from mlx_patch.sweeps._variation import AxisChoices as AxisChoices
from mlx_patch.sweeps._variation import CrossChoices as CrossChoices
from mlx_patch.sweeps._variation import OverChoice as OverChoice
from mlx_patch.sweeps._variation import Variation as Variation
from mlx_patch.sweeps._variation import choices_of as choices_of
from mlx_patch.sweeps._windows import onwards as onwards
from mlx_patch.sweeps._windows import up_to as up_to
from mlx_patch.sweeps._windows import windows as windows
from mlx_patch.sweeps.axes import SweepAxis as SweepAxis
from mlx_patch.tokens import batches_of as batches_of
