"""Numbers with labels: what a sweep measured, with statistics over examples, files and plots."""

from mlx_patch.results._agreement import Agreement as Agreement
from mlx_patch.results._agreement import rank_correlation as rank_correlation
from mlx_patch.results._agreement import upper_bound as upper_bound
from mlx_patch.results._axes import Axis as Axis
from mlx_patch.results._axes import known_axes as known_axes
from mlx_patch.results._captions import short_metric as short_metric
from mlx_patch.results._cell_result import CellResult as CellResult
from mlx_patch.results._coordinates import Coordinate as Coordinate
from mlx_patch.results._coordinates import range_text as range_text
from mlx_patch.results._description import check_description as check_description
from mlx_patch.results._estimate import Estimate as Estimate
from mlx_patch.results._files import StoredPlan as StoredPlan
from mlx_patch.results._files import json_text as json_text
from mlx_patch.results._normalised import fraction_of_gap as fraction_of_gap
from mlx_patch.results._pair import PairResult as PairResult
from mlx_patch.results._peaks import Peak as Peak
from mlx_patch.results._result import SweepResult as SweepResult
from mlx_patch.results._statistics import bootstrap_interval as bootstrap_interval
from mlx_patch.results._statistics import checked_resampling as checked_resampling
from mlx_patch.results._statistics import mean_over_examples as mean_over_examples
from mlx_patch.results._statistics import resampled_shares as resampled_shares
from mlx_patch.results._tables import import_optional as import_optional
from mlx_patch.results._verdicts import PairRow as PairRow
from mlx_patch.results._verdicts import PairSummary as PairSummary
