"""The axes of a sweep: an axis a file. A file in this folder is all that a new axis needs."""

from mlx_patch._presence import import_modules
from mlx_patch.sweeps.axes._axis import AxisChoice as AxisChoice
from mlx_patch.sweeps.axes._axis import SweepAxis as SweepAxis
from mlx_patch.sweeps.axes._axis import SweepScope as SweepScope
from mlx_patch.sweeps.axes._registered import sweep_axes as sweep_axes

import_modules(__name__, __path__)
