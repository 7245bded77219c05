"""`FaithfulnessCurve`: the metric of circuits of growing size, as a share of the difference of two runs."""

import os
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.errors import ShapeError, ValueRefusedError
from mlx_patch.files import text_written
from mlx_patch.plot import PageAxis, cells_data, cells_page, html_frame
from mlx_patch.results import checked_resampling, resampled_shares

_FRAME = 560
"""The height of the page in a notebook, in pixels."""

Ranking = Literal["absolute", "signed", "complement"]
"""Which circuits of a curve are meant."""

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""The shares of all edges at which circuits are compared."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class FaithfulnessCurve:
    """The metric of circuits of growing size.

    Faithfulness is `(m(circuit) - m(none)) / (m(all) - m(none))`, a ratio of means over examples: 1 for all edges and 0
    for none.

    Attributes:
        sizes: How many edges each circuit has, or how many nodes.
        shares: The same as shares of all edges or nodes.
        signed: The metric of those whose signed scores move it furthest from host to source. Shape `(size, example)`.
        absolute: The metric of those with the highest absolute scores. Shape `(size, example)`.
        host: The metric with all edges, `m(all)`. Shape `(example,)`.
        source: The metric with no edge, `m(none)`. Shape `(example,)`.
        complement: The metric of all edges but those of `absolute`, which tells whether a circuit is complete. Shape
            `(size, example)`; None where it was not run.
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
    complement: np.ndarray | None = None

    def __post_init__(self) -> None:
        expected = (len(self.shares), *self.host.shape)
        shapes = {"signed": self.signed.shape, "absolute": self.absolute.shape}
        shapes["source"] = (len(self.shares), *self.source.shape)
        if self.complement is not None:
            shapes["complement"] = self.complement.shape
        for name, shape in shapes.items():
            if shape != expected:
                raise ShapeError(
                    f"`{name}` must fit the shape (size, example), {expected}. Got {shape}. Give one number a circuit."
                )

    @property
    def f_signed(self) -> np.ndarray:
        """Faithfulness of the edges that are ranked by signed scores. Shape `(size,)`."""
        return self._faithfulness(self.signed)

    @property
    def f_absolute(self) -> np.ndarray:
        """Faithfulness of the edges with the highest absolute scores. Shape `(size,)`."""
        return self._faithfulness(self.absolute)

    @property
    def f_complement(self) -> np.ndarray:
        """Faithfulness of all edges but those of `f_absolute`: 0 where these are all that matters. Shape `(size,)`.

        Raises:
            ValueRefusedError: They were not run.
        """
        if self.complement is None:
            raise ValueRefusedError("The curve has no complements. Call `faithfulness` with `complements=True`.")
        return self._faithfulness(self.complement)

    def interval(
        self, ranking: Ranking = "absolute", level: float = 0.95, resamples: int = 2000, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Low and high end of the percentile bootstrap interval of faithfulness over examples.

        Each resample draws examples anew, for all circuits the same ones, and takes the ratio of their means.

        Args:
            ranking: "absolute" for `f_absolute`, "signed" for `f_signed`, "complement" for `f_complement`.
            level: The share of resampled ratios inside.
            resamples: How many times the examples are drawn again.
            seed: Of the draws.
        Returns:
            Two arrays. Shape `(size,)` each.
        Raises:
            UnknownNameError: There is no such ranking.
            ValueRefusedError: There are fewer than two examples, or an argument is out of its range.
            KindError: An argument is no number.
        """
        level, resamples, seed = checked_resampling(level, resamples, seed)
        curves = {"absolute": self.absolute, "signed": self.signed, "complement": self.complement}
        run = {name: curve for name, curve in curves.items() if curve is not None}
        values = run[arguments.choice("ranking", ranking, run, "of a curve that was run")]
        weights = resampled_shares(len(self.host), resamples, seed)
        low, high = self.source @ weights.T, self.host @ weights.T
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = (values @ weights.T - low) / (high - low)
        ends = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2], axis=1)
        return ends[0], ends[1]

    @property
    def cpr(self) -> float:
        """The area under `f_signed` over the share of edges: the circuit performance ratio. Higher is better."""
        return self._area(self.f_signed)

    @property
    def cmd(self) -> float:
        """The area between `f_absolute` and 1: the circuit-model distance. 0 is best."""
        return self._area(np.abs(1 - self.f_absolute))

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """The curves as one HTML page, which loads nothing, with intervals where there are two examples or more.

        Args:
            path: Where to write it as well, whole or not at all; None writes nothing.
        Raises:
            FileError: `path` cannot be written to.
        """
        return text_written(cells_page("Faithfulness of circuits", repr(self), self._page_data()), path)

    def _repr_html_(self) -> str:
        return html_frame(self.to_html(), _FRAME)

    def _page_data(self) -> dict[str, Any]:
        curves: dict[Ranking, np.ndarray] = {"absolute": self.f_absolute}
        curves["signed"] = self.f_signed
        if self.complement is not None:
            curves["complement"] = self.f_complement
        interval = None
        if len(self.host) > 1:
            ends = zip(*(self.interval(ranking) for ranking in curves), strict=True)
            low, high = (np.stack(end, axis=-1) for end in ends)
            interval = low, high
        labels = [f"{share:.3g}" for share in self.shares]
        if self.sizes:
            labels = [f"{size} ({share:.3g})" for size, share in zip(self.sizes, self.shares, strict=True)]
        axis = PageAxis("size", labels, label="edges, and their share of all")
        values = np.stack(list(curves.values()), axis=-1)[..., None]
        names = [f"faithfulness, {name}" for name in curves]
        return cells_data([axis], values, names, interval=interval)

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
