"""`FaithfulnessCurve`: the metric of circuits of growing size, as a share of the difference of two runs."""

from dataclasses import dataclass
from typing import final

import numpy as np
from typing_extensions import override

from mlx_patch.errors import ShapeError

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""The shares of all edges at which circuits are compared."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class FaithfulnessCurve:
    """The metric of circuits of growing size.

    Faithfulness is `(m(circuit) - m(none)) / (m(all) - m(none))`, a ratio of means over examples: 1 for all edges and 0
    for none.

    Attributes:
        sizes: How many edges each circuit has.
        shares: The same as shares of all edges.
        signed: The metric of the edges with the highest signed scores. Shape `(size, example)`.
        absolute: The metric of those with the highest absolute scores. Shape `(size, example)`.
        host: The metric with all edges, `m(all)`. Shape `(example,)`.
        source: The metric with no edge, `m(none)`. Shape `(example,)`.
    Raises:
        ShapeError: They do not fit together.
    Source:
        Mueller et al. 2025, https://arxiv.org/abs/2504.13151, section 3.
    Example:
        >>> whole = np.ones((10, 1))
        >>> curve = FaithfulnessCurve((), SHARES, whole, whole, np.ones(1), np.zeros(1))
        >>> round(curve.cpr, 6), round(curve.cmd, 6)
        (0.999, 0.0)
    """

    sizes: tuple[int, ...]
    shares: tuple[float, ...]
    signed: np.ndarray
    absolute: np.ndarray
    host: np.ndarray
    source: np.ndarray

    def __post_init__(self) -> None:
        expected = (len(self.shares), *self.host.shape)
        shapes = {"signed": self.signed.shape, "absolute": self.absolute.shape}
        shapes["source"] = (len(self.shares), *self.source.shape)
        for name, shape in shapes.items():
            if shape != expected:
                raise ShapeError(
                    f"`{name}` must fit the shape (size, example), {expected}. Got {shape}. Give one number a circuit."
                )

    @property
    def f_signed(self) -> np.ndarray:
        """Faithfulness of the edges with the highest signed scores. Shape `(size,)`."""
        return self._faithfulness(self.signed)

    @property
    def f_absolute(self) -> np.ndarray:
        """Faithfulness of the edges with the highest absolute scores. Shape `(size,)`."""
        return self._faithfulness(self.absolute)

    @property
    def cpr(self) -> float:
        """The area under `f_signed` over the share of edges: the circuit performance ratio. Higher is better."""
        return self._area(self.f_signed)

    @property
    def cmd(self) -> float:
        """The area between `f_absolute` and 1: the circuit-model distance. 0 is best."""
        return self._area(np.abs(1 - self.f_absolute))

    def _faithfulness(self, values: np.ndarray) -> np.ndarray:
        low, high = self.source.mean(dtype=np.float64), self.host.mean(dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):  # where source and host do not differ: not a number
            return (values.mean(axis=-1, dtype=np.float64) - low) / (high - low)

    def _area(self, heights: np.ndarray) -> float:
        """The area under a curve over the share of edges, by trapezoids."""
        widths = np.diff(self.shares)
        return float((widths * (heights[1:] + heights[:-1]) / 2).sum())

    @override
    def __repr__(self) -> str:
        return f"FaithfulnessCurve({len(self.shares)} sizes, CPR {self.cpr:.3g}, CMD {self.cmd:.3g})"
