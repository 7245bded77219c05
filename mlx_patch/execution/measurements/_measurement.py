"""`Measurement`: a way to measure metrics in a sweep. Each final subclass has a file of this folder."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar

from mlx_patch.execution.executors import Executor, PassValues
from mlx_patch.execution.passes import PassTask, UnpatchedRun, UnpatchedTask
from mlx_patch.execution.plan import Plan
from mlx_patch.metrics import Metric
from mlx_patch.model import HookedModel


class Measurement(ABC):
    """A way to measure metrics. Metrics of one kind share the passes of a sweep; each kind has passes of its own.

    Attributes:
        order: The position of its sweep, where the metrics of a call are of several kinds.
        needs_own_pass: Whether each cell must run in a pass of its own.
        needs_whole_rows: Whether each row must run through all blocks.
        provenance: Entries that it adds to the provenance of a result.
    """

    order: ClassVar[int]
    needs_own_pass: ClassVar[bool] = False
    needs_whole_rows: ClassVar[bool] = False
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
    def run_unpatched(self, model: HookedModel, task: UnpatchedTask) -> UnpatchedRun:
        """The unpatched run of a group of prompts, with its metrics and the activations that passes need."""

    @abstractmethod
    def run_pass(self, model: HookedModel, task: PassTask, executor: Executor, unpatched: UnpatchedRun) -> PassValues:
        """The metrics of the cells of a pass."""
