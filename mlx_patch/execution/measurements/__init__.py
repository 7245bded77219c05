"""How metrics are measured: one kind per file. A new kind needs only a file in this folder."""

from mlx_patch._presence import import_modules
from mlx_patch.execution.measurements._kinds import measurement_of as measurement_of
from mlx_patch.execution.measurements._kinds import measurements as measurements
from mlx_patch.execution.measurements._kinds import metrics_by_measurement as metrics_by_measurement
from mlx_patch.execution.measurements._measurement import Measurement as Measurement

import_modules(__name__, __path__)
