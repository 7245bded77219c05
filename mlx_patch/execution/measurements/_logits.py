"""`OfLogits`: metrics of the logits at some positions of the prompt, or of an answer that is appended to it."""

from typing import final

from typing_extensions import override

from mlx_patch.execution.executors import Executor, PassValues
from mlx_patch.execution.measurements._measurement import Measurement
from mlx_patch.execution.passes import PassTask, UnpatchedRun, UnpatchedTask, from_host_run, run_unpatched
from mlx_patch.metrics import Metric
from mlx_patch.model import HookedModel


@final
class OfLogits(Measurement):
    """Metrics that are functions of the logits of a forward pass, which many cells share."""

    order = 0

    @override
    def serves(self, metric: Metric) -> bool:
        return True

    @override
    def run_unpatched(self, model: HookedModel, task: UnpatchedTask) -> UnpatchedRun:
        return from_host_run(task) or run_unpatched(task)

    @override
    def run_pass(self, model: HookedModel, task: PassTask, executor: Executor, unpatched: UnpatchedRun) -> PassValues:
        return executor.run(task, unpatched)
