"""Random sweeps against one plain run per cell."""

from mlx_patch.testing._fuzz._report import FuzzReport as FuzzReport
from mlx_patch.testing._fuzz._report import fuzz_sweeps as fuzz_sweeps
