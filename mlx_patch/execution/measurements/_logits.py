"""`OfLogits`: metrics of the logits at some positions of the prompt, or of an answer that is appended to it."""

from collections.abc import Sequence
from typing import final

import mlx.core as mx
from typing_extensions import override

from mlx_patch.execution.executors import Executor, PassTask, PassValues
from mlx_patch.execution.measurements._measurement import Measurement
from mlx_patch.execution.passes import UnpatchedRun, run_unpatched
from mlx_patch.execution.readouts import Readout
from mlx_patch.interventions import Edit
from mlx_patch.metrics import Metric
from mlx_patch.model import HookedModel, run
from mlx_patch.sites import Site


@final
class OfLogits(Measurement):
    """Metrics that are functions of the logits of a forward pass, which many cells share."""

    order = 0

    @override
    def serves(self, metric: Metric) -> bool:
        return True

    @override
    def run_unpatched(
        self,
        model: HookedModel,
        tokens: mx.array,
        readout: Readout,
        starts: Sequence[int],
        sites: Sequence[Site],
        piece: int,
    ) -> UnpatchedRun:
        return run_unpatched(model.layout, tokens, readout, starts, sites, piece)

    @override
    def run_pass(self, model: HookedModel, task: PassTask, executor: Executor, unpatched: UnpatchedRun) -> PassValues:
        return executor.run(task, unpatched)

    @override
    def measure(
        self, model: HookedModel, tokens: mx.array, readout: Readout, edits: Sequence[Edit]
    ) -> tuple[mx.array, int]:
        logits = run(model.layout, tokens, edits, logits_at=readout.at).logits
        token_layers = tokens.size * len(model.layout.blocks)
        return readout.measure(logits, tokens.shape[1]), token_layers
