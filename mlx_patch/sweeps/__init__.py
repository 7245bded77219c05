"""Sweeps: what they measured, with statistics over examples, files and plots."""

from mlx_patch.sweeps._pair import PairResult as PairResult
from mlx_patch.sweeps._peak import Peak as Peak
from mlx_patch.sweeps._result import SweepResult as SweepResult
from mlx_patch.sweeps._stored import StoredPlan as StoredPlan
from mlx_patch.sweeps._verdicts import PairRow as PairRow
from mlx_patch.sweeps._verdicts import PairSummary as PairSummary
