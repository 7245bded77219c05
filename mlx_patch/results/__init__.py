"""Numbers with labels: what a sweep measured, with statistics over examples, files and plots."""

from mlx_patch.results._coordinates import Coordinate as Coordinate
from mlx_patch.results._files import StoredPlan as StoredPlan
from mlx_patch.results._pair import PairResult as PairResult
from mlx_patch.results._peaks import Peak as Peak
from mlx_patch.results._result import SweepResult as SweepResult
from mlx_patch.results._verdicts import PairRow as PairRow
from mlx_patch.results._verdicts import PairSummary as PairSummary
