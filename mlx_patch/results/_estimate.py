"""`Estimate`: what a sweep would measure, to first order, and for the cells that were swept what it did measure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.errors import KindError, ShapeError
from mlx_patch.results._agreement import Agreement, agreement_of
from mlx_patch.results._cell_result import CellResult
from mlx_patch.results._labelled import locked

if TYPE_CHECKING:
    import matplotlib.axes


@final
@dataclass(frozen=True, eq=False, repr=False)
class Estimate(CellResult):
    """The result of `attribute`: what the same sweep would return, to first order.

    `values` has the shape `(*over, metric if several, example)`, in the metric's unit, as a `SweepResult` has it. Cells
    that were confirmed hold the exact numbers; `exact` says which. `Labelled` describes the other attributes.

    Attributes:
        estimated: The estimates of all cells, those that were confirmed too. The shape of `values`.
        exact: Which cells were swept: the strongest ones and a random sample of the others. Bool, shape `(*over)`.
        sampled: Which of these were drawn at random. Bool, shape `(*over)`.
    Raises:
        KindError, ShapeError: The arrays do not fit `values`; and as `Labelled`.
    Example:
        >>> import numpy as np
        >>> values = np.array([[1], [5]], dtype=np.float32)
        >>> est = Estimate(values, ("layer", "example"), {"layer": (0, 1), "example": (0,)}, values[0], {})
        >>> est.exact.tolist(), est.peak()
        ([False, False], layer 1: 5 (baseline 1, effect +4))
    """

    FURTHER_ARRAYS: ClassVar[tuple[str, ...]] = (*CellResult.FURTHER_ARRAYS, "estimated", "exact", "sampled")

    estimated: Any = None
    exact: Any = None
    sampled: Any = None

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        estimated = self.values
        if self.estimated is not None:
            estimated = arguments.numpy_array("estimated", self.estimated)
        if estimated.shape != self.values.shape:
            raise ShapeError(
                f"`estimated` must have the shape of `values`, {self.values.shape}. Got {estimated.shape}. "
                "Give one estimate a value."
            )
        object.__setattr__(self, "estimated", locked("estimated", estimated))
        for name in ("exact", "sampled"):
            object.__setattr__(self, name, self._mask(name))

    def _mask(self, name: str) -> np.ndarray:
        shape = self.values.shape[: len(self.over)]
        mask = getattr(self, name)
        if mask is None:
            mask = np.zeros(shape, bool)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise KindError(f"`{name}` must be a numpy array of bool. Got {type(mask).__name__}.")
        if mask.shape != shape:
            raise ShapeError(f"`{name}` must have one truth value a cell, shape {shape}. Got {mask.shape}.")
        copy = mask.copy()
        copy.flags.writeable = False
        return copy

    @property
    @override
    def further_arrays(self) -> Mapping[str, tuple[str, ...]]:
        return {**super().further_arrays, "estimated": self.axes, "exact": self.over, "sampled": self.over}

    @property
    def residual(self) -> float | None:
        """What the increments of "integrated" leave out of the metric's difference at most; None for other methods."""
        return self.provenance.get("residual")

    @property
    def absolute(self) -> bool:
        """Whether estimates are the baseline plus the size of an effect, without its sign, as `graddrop` gives them."""
        return bool(self.provenance.get("graddrop", False))

    @property
    def agreement(self) -> Agreement:
        """How far the estimates are from the exact numbers, where both are known: for one metric.

        Where estimates are `absolute`, the sizes of the exact effects are compared with them.

        Raises:
            ValueRefusedError: No cell was confirmed, or there are several metrics: choose with `of_metric` first.
        """
        single = self.of_metric(None)
        return agreement_of(
            estimates=single._effects(single.estimated),
            exact=single._effects(single.values),
            swept=single.exact,
            sampled=single.sampled,
            axes=single.over,
            coords=single.coords,
            metric=next(iter(single.metrics), "metric"),
            signed=not single.absolute,
        )

    def _effects(self, values: np.ndarray) -> np.ndarray:
        """The mean change from the baseline of each cell, or its mean size. Shape `(*over)`."""
        changes = values.astype(np.float64) - self.baseline
        if self.absolute:
            changes = np.abs(changes)
        return np.nanmean(changes, axis=-1)

    def plot_agreement(self, ax: Any = None, metric: str | None = None) -> "matplotlib.axes.Axes":
        """Exact effects against estimated ones, with the diagonal on which they agree.

        Args:
            ax: Where to draw; by default on a new figure.
            metric: Which, where there are several.
        Raises:
            MissingExtraError: matplotlib is not installed.
            ValueRefusedError: No cell was confirmed, or there are several metrics and none is named.
        """
        return self.of_metric(metric).agreement.plot(ax)
