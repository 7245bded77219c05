"""`Measurement`: a way to measure metrics in a sweep. Each final subclass has a file of this folder."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import mlx.core as mx

from mlx_patch.execution.executors import Executor, PassTask, PassValues
from mlx_patch.execution.passes import UnpatchedRun
from mlx_patch.execution.plan import Plan
from mlx_patch.execution.readouts import Readout
from mlx_patch.interventions import Edit
from mlx_patch.metrics import Metric
from mlx_patch.model import HookedModel
from mlx_patch.sites import Site


class Measurement(ABC):
    """A way to measure metrics. Metrics of one kind share the passes of a sweep; each kind has passes of its own.

    Attributes:
        order: The position of its sweep, where the metrics of a call are of several kinds.
        one_cell_a_pass: Whether each cell runs by itself.
        whole_rows: Whether each row runs through all blocks.
        provenance: Entries that it adds to the provenance of a result.
    """

    order: ClassVar[int]
    one_cell_a_pass: ClassVar[bool] = False
    whole_rows: ClassVar[bool] = False
    provenance: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def serves(self, metric: Metric) -> bool:
        """Whether a metric is of this kind. Of several kinds, the one with the highest order measures it."""

    def check(self, model: HookedModel, metrics: Iterable[Metric]) -> None:  # noqa: B027  # most have nothing to check
        """Refuse, before anything runs, a model that metrics of this kind cannot measure.

        Raises:
            KindError: It lacks what they need.
        """

    def further_positions(self, metrics: Iterable[Metric]) -> int:
        """An upper bound of the positions behind the prompt that the model runs through."""
        del metrics
        return 0

    def further_cost(self, plan: Plan, metrics: Iterable[Metric]) -> int:
        """An upper bound of the token-layers beside those of a plan's passes."""
        del plan, metrics
        return 0

    @abstractmethod
    def run_unpatched(
        self,
        model: HookedModel,
        tokens: mx.array,
        readout: Readout,
        starts: Sequence[int],
        sites: Sequence[Site],
        piece: int,
    ) -> UnpatchedRun:
        """The unpatched run of a batch, with its metrics and the activations that passes need.

        Args:
            model: The model.
            tokens: Shape `(batch, pos)`.
            readout: The metrics.
            starts: The positions at which passes begin, in order.
            sites: Activations that rows enter with.
            piece: Positions that run at once, at most, where the prompt may be split.
        """

    @abstractmethod
    def run_pass(self, model: HookedModel, task: PassTask, executor: Executor, unpatched: UnpatchedRun) -> PassValues:
        """The metrics of the cells of a pass."""

    @abstractmethod
    def measure(
        self, model: HookedModel, tokens: mx.array, readout: Readout, edits: Sequence[Edit]
    ) -> tuple[mx.array, int]:
        """The metrics of one run with edits, of shape `(metric, batch)`; and its token-layers."""
