"""`PairResult`: one sweep in both directions, which tells necessary cells from sufficient ones."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.errors import PatchError, ShapeError, ValueRefusedError
from mlx_patch.files import Format, read_archive, write_archive
from mlx_patch.results._figures import draw_pair
from mlx_patch.results._files import about_result, array_names, inconsistent, read_result, result_arrays
from mlx_patch.results._page import pair_frames, pair_page
from mlx_patch.results._result import SweepResult
from mlx_patch.results._verdicts import PairSummary, checked_threshold, is_necessary, is_sufficient, summary_of

if TYPE_CHECKING:
    import matplotlib.axes


_FORMAT = Format("mlx_patch.PairResult", 1)


@dataclass(frozen=True, eq=False)
class PairResult:
    """A sweep in both directions, in fractions of the same clean-corrupted gap.

    A cell is sufficient if its clean activation alone restores the behaviour in the corrupted run, and necessary if its
    corrupted activation alone destroys it in the clean run. The two questions have different answers: of two copies,
    each is sufficient and neither is necessary.

    Attributes:
        denoising: Clean activations put into the corrupted run: 1 restores the clean behaviour, 0 does nothing.
        noising: Corrupted activations put into the clean run: 0 destroys the clean behaviour, 1 does nothing.
    Raises:
        ValueRefusedError: One of them is not normalised, or they are exchanged.
        ShapeError: They differ in axes or coordinates (token strings aside: the prompts may differ).
    Source:
        Heimersheim and Nanda 2024, https://arxiv.org/abs/2404.15255.
    """

    denoising: SweepResult
    noising: SweepResult

    def __post_init__(self) -> None:
        for name, result in (("denoising", self.denoising), ("noising", self.noising)):
            arguments.instance(name, result, SweepResult)
            if not result.is_normalised:
                raise ValueRefusedError(
                    f"`{name}` must be normalised. Got one in its metric's unit. "
                    "Use `result.normalised(clean=..., corrupted=...)`."
                )
        if differences := _axis_differences(self.denoising, self.noising):
            raise ShapeError(
                f"`noising` must have the axes and coordinates of `denoising`. Got others: {differences}. Sweep the "
                "same axes."
            )
        _refuse_exchanged(self.denoising.baseline_mean(), self.noising.baseline_mean())

    def sufficient(self, threshold: float = 0.5) -> np.ndarray:
        """Where denoising restores `threshold` of the gap or more. Shape: the axes without `example`.

        Raises:
            KindError: `threshold` is no number.
            ValueRefusedError: It is not above 0, or infinite.
        """
        return is_sufficient(self.denoising.mean(), checked_threshold(threshold))

    def necessary(self, threshold: float = 0.5) -> np.ndarray:
        """Where noising takes away `threshold` of the gap or more. Shape: the axes without `example`.

        Raises:
            KindError: `threshold` is no number.
            ValueRefusedError: It is not above 0, or infinite.
        """
        return is_necessary(self.noising.mean(), checked_threshold(threshold))

    def of_metric(self, metric: str | None) -> "PairResult":
        """The pair of one metric; itself where there is only one.

        Raises:
            ValueRefusedError: There are several and `metric` is None, or there is one and `metric` is another.
            SelectionError: There is no such metric.
        """
        return PairResult(self.denoising.of_metric(metric), self.noising.of_metric(metric))

    def summary(self, threshold: float = 0.5, metric: str | None = None) -> PairSummary:
        """Which cells are both necessary and sufficient, sufficient only, or necessary only.

        Args:
            threshold: The fraction of the gap from which on a cell counts.
            metric: Which, where there are several.
        Raises:
            KindError: `threshold` is no number.
            ValueRefusedError: It is not above 0, or there are several metrics and none is named.
            SelectionError: There is no such metric.
        """
        pair = self.of_metric(metric)
        denoising, noising = pair.denoising, pair.noising
        return summary_of(
            denoising.mean(),
            noising.mean(),
            denoising.complete_cells & noising.complete_cells,
            denoising.over,
            denoising.coords,
            checked_threshold(threshold),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write both into one `.npz` file, whole or not at all, as `SweepResult.save` does.

        Raises:
            FileError: `path` cannot be written to, or does not end in `.npz`.
        """
        about = {"denoising": about_result(self.denoising), "noising": about_result(self.noising)}
        arrays = result_arrays(self.denoising, "denoising/") | result_arrays(self.noising, "noising/")
        write_archive(path, {**_FORMAT.entry, **about}, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "PairResult":
        """Read what `save` wrote.

        Raises:
            FileError: There is no such file, or it is damaged, of another kind, or of another version.
        """
        written_by = "PairResult.save"
        names = [*array_names(SweepResult, "denoising/"), *array_names(SweepResult, "noising/")]
        about, arrays = read_archive(path, written_by, _FORMAT, names)
        denoising = read_result(SweepResult, path, about, arrays, written_by, "denoising")
        noising = read_result(SweepResult, path, about, arrays, written_by, "noising")
        try:
            return cls(denoising, noising)
        except PatchError as error:
            raise inconsistent(path, written_by, error) from error

    def plot(self, metric: str | None = None) -> "list[matplotlib.axes.Axes]":
        """Two panels of a new figure, denoising and noising, with one scale.

        Raises:
            MissingExtraError: matplotlib is not installed.
            ValueRefusedError: There are more than two axes, or none; or several metrics and none is named.
        """
        pair = self.of_metric(metric)
        return draw_pair(pair.denoising, pair.noising)

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """Both as one HTML page, as `SweepResult.to_html` makes each.

        Args:
            path: Where to write it as well, whole or not at all; None writes nothing.
        Raises:
            FileError: `path` cannot be written to.
        """
        return pair_page(self.denoising, self.noising, path)

    def _repr_html_(self) -> str:
        return pair_frames(self.denoising, self.noising)

    @override
    def __repr__(self) -> str:
        return f"PairResult\ndenoising: {self.denoising}\nnoising: {self.noising}"


def _axis_differences(denoising: SweepResult, noising: SweepResult) -> str:
    if denoising.axes != noising.axes:
        return f"{denoising.axes} and {noising.axes}"
    if denoising.metrics != noising.metrics:
        return f"metrics {denoising.metrics} and {noising.metrics}"
    return ", ".join(axis for axis in denoising.axes if denoising.coords[axis] != noising.coords[axis])


def _refuse_exchanged(denoising_start: np.ndarray, noising_start: np.ndarray) -> None:
    """Refuse baselines that show that the two sweeps, or clean and corrupted, were exchanged."""
    if (denoising_start > 0.5).any() or (noising_start < 0.5).any():
        raise ValueRefusedError(
            "`denoising` must start from the corrupted run, at 0, and `noising` from the clean run, at 1. Got starts "
            f"at {_rounded(denoising_start)} and {_rounded(noising_start)}. Swap the two, or swap `clean` and "
            "`corrupted`."
        )


def _rounded(array: np.ndarray) -> object:
    return array.round(3).tolist()
