"""`Labelled`: numbers with their axes, coordinates and provenance.

It knows no model, no plan and no pass, so every measurement of the library can return one.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.errors import KindError, ShapeError
from mlx_patch.results._coordinates import checked_axes, checked_coords
from mlx_patch.results._statistics import bootstrap_interval, mean_over_examples


@dataclass(frozen=True, eq=False, repr=False)
class Labelled(ABC):
    """One number per cell and example, with coordinates, the baseline and provenance.

    What was not run is NaN. `run_mask` tells it from a NaN that was computed, by a model that overflows in float16,
    say. In a normalised result an example whose baseline is NaN has no gap between clean and corrupted, and means leave
    it out.

    Attributes:
        values: In the metric's unit, float32, read-only. Shape `(*over, metric if several, example)`.
        axes: The names of its axes: those of `over` in its order, `metric` where there are several, `example`.
        coords: Coordinates by axis: layers, absolute positions, heads, ...; groups that are patched together are
            tuples. `token` holds the token strings along `pos`.
        baseline: The metric of the unpatched run, float32, read-only. Shape `(metric if several, example)`.
        provenance: JSON values: versions, model, tokens, edits, executor, `metrics` by name.
        plan: How the sweep was run: a value with `as_dict()` and a `str`.
        seconds: How long it took. Files that `save` writes leave it out, so that equal numbers give equal files.
        run_mask: Which values were run, bool, read-only. The shape of `values`. By default: those that are not NaN.
        seed_baselines: Where each seed has an unpatched run of its own, its metric; `baseline` is their mean. Float32,
            read-only. Shape `(seed, metric if several, example)`.
    Raises:
        KindError: The arrays are not float32, the mask is not bool, or the provenance is not JSON.
        ShapeError: Values, coordinates, baseline and mask do not fit together.
        UnknownNameError: An axis is unknown, or coordinates belong to none.
        ValueRefusedError: Axes are out of order, or empty, or coordinates there twice.
    """

    FURTHER_ARRAYS: ClassVar[tuple[str, ...]] = ("seed_baselines",)
    """The names that `further_arrays` may have."""

    values: np.ndarray
    axes: tuple[str, ...]
    coords: Mapping[str, tuple[Any, ...]]
    baseline: np.ndarray
    provenance: Mapping[str, Any]
    plan: Any = None
    seconds: float | None = None
    run_mask: Any = None
    seed_baselines: Any = None

    def __post_init__(self) -> None:
        if self.seconds is not None:
            object.__setattr__(self, "seconds", arguments.number("seconds", self.seconds, at_least=0))
        axes = checked_axes(self.axes)
        values = locked("values", self.values)
        baseline = locked("baseline", self.baseline)
        coords = checked_coords(self.coords, axes, values.shape)
        check_baseline(baseline, axes, values.shape)
        checked = {
            "values": values,
            "axes": axes,
            "coords": coords,
            "baseline": baseline,
            "provenance": json_value("provenance", self.provenance),
            "run_mask": mask_of_runs(self.run_mask, values, baseline),
        }
        if self.seed_baselines is not None:
            checked["seed_baselines"] = _checked_baselines(self.seed_baselines, baseline, coords)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def is_normalised(self) -> bool:
        """Whether the values are fractions of the clean-corrupted gap."""
        return "normalised" in self.provenance

    @property
    def over(self) -> tuple[str, ...]:
        """The axes of the cells: without `metric` and `example`."""
        return tuple(axis for axis in self.axes if axis not in ("metric", "example"))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics: from the coordinates if there are several, else from the provenance."""
        if "metric" in self.coords:
            return self.coords["metric"]
        if selected := self.provenance.get("selected", {}).get("metric"):
            return (selected,)
        return tuple(self.provenance.get("metrics", []))

    @property
    def left_out(self) -> np.ndarray:
        """Where an example has no gap between clean and corrupted; False if not normalised. The shape of `baseline`."""
        return np.isnan(self.baseline) & self.is_normalised

    @property
    def complete_cells(self) -> np.ndarray:
        """Which cells were run for every metric and example. Shape: the axes of `over`."""
        inner_axes = tuple(range(len(self.over), len(self.axes)))
        return np.asarray((self.run_mask | self.left_out).all(axis=inner_axes))

    @property
    def missing(self) -> int:
        """How many cells were not run for every metric and example. Numbers that overflowed are not missing."""
        return int(np.count_nonzero(~self.complete_cells))

    @property
    def complete(self) -> bool:
        """Whether every cell was run."""
        return self.missing == 0

    @property
    def further_arrays(self) -> Mapping[str, tuple[str, ...]]:
        """The axes of each array that this kind of result has beside those of every result, by its name."""
        if self.seed_baselines is None:
            return {}
        return {"seed_baselines": ("seed", *self.axes[len(self.over) :])}

    def mean(self) -> np.ndarray:
        """The mean over examples; NaN where one is NaN or was not run. Shape: `values` without its last axis."""
        return mean_over_examples(self.values, self.left_out)

    def baseline_mean(self) -> np.ndarray:
        """The baseline's mean over examples. Shape `()`, or `(metric,)`."""
        return mean_over_examples(self.baseline, self.left_out)

    def interval(self, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Low and high end of the mean's percentile bootstrap interval over examples.

        It says how far the mean of one cell would move with other examples of the same kind. It does not correct for
        the number of cells. With few examples it is too short.

        Args:
            level: The share of resampled means inside.
            resamples: How many times the examples are drawn again.
            seed: Of the draws.
        Returns:
            Two arrays with the shape of `mean()`.
        Raises:
            ValueRefusedError: There are fewer than two examples, or an argument is out of its range.
            KindError: An argument is no number.
        """
        return bootstrap_interval(self.values, self.left_out, level, resamples, seed)

    @override
    @abstractmethod
    def __repr__(self) -> str:
        """The result in a few lines."""


def locked(name: str, array: object) -> np.ndarray:
    """A read-only copy of an array in float32.

    Raises:
        KindError: It is no numpy array, or of another dtype.
    """
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray) or array.dtype != np.float32:
        raise KindError(
            f"`{name}` must be a numpy array of float32. Got {_kind_text(array)}. Use `.astype(np.float32)`."
        )
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def _kind_text(value: object) -> str:
    if isinstance(value, np.ma.MaskedArray):
        return "a masked array"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}"
    return type(value).__name__


def check_baseline(baseline: np.ndarray, axes: tuple[str, ...], shape: tuple[int, ...]) -> None:
    """Refuse a baseline that does not have the last axes of the values.

    Raises:
        ShapeError: Its shape is another.
    """
    expected = shape[-1:]
    if "metric" in axes:
        expected = shape[-2:]
    if baseline.shape != expected:
        raise ShapeError(
            f"`baseline` must have the last axes of `values`, shape {expected}. Got {baseline.shape}. Give one number "
            "per example, and per metric if there are several."
        )


def _checked_baselines(baselines: object, baseline: np.ndarray, coords: Mapping[str, tuple[Any, ...]]) -> np.ndarray:
    """The baselines of seeds, read-only.

    Raises:
        ShapeError: There is not one for each seed.
    """
    array = locked("seed_baselines", baselines)
    expected = (len(coords.get("seed", ())), *baseline.shape)
    if array.shape != expected:
        raise ShapeError(
            f"`seed_baselines` must have one baseline a seed, shape {expected}. Got {array.shape}. Give one number per "
            "seed and example, and per metric if there are several."
        )
    return array


def mask_of_runs(mask: object, values: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Where values were run, read-only. A number was run, whatever the mask says.

    Args:
        mask: The mask; by default, where neither the value nor its baseline is NaN.
        values: The values.
        baseline: Of the unpatched run.
    Raises:
        KindError: It is no numpy array of truth values.
        ShapeError: It does not have the shape of the values.
    """
    is_number = ~np.isnan(values)
    if mask is None:
        run_mask = is_number & ~np.isnan(baseline)
    elif not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        raise KindError(f"`run_mask` must be a numpy array of bool. Got {_kind_text(mask)}. Use `.astype(bool)`.")
    elif mask.shape != values.shape:
        raise ShapeError(
            f"`run_mask` must have the shape of `values`, {values.shape}. Got {mask.shape}. Give one bool per number."
        )
    else:
        run_mask = mask | is_number
    run_mask.flags.writeable = False
    return run_mask


def json_value(name: str, mapping: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a mapping after a round trip through JSON: tuples as lists, keys as texts.

    Raises:
        KindError: JSON cannot hold a value.
    """
    try:
        return json.loads(json.dumps(dict(mapping)))
    except (TypeError, ValueError) as error:
        raise KindError(f"`{name}` must be a mapping of JSON values. Got: {error}. Write it as text.") from error


Result = TypeVar("Result", bound=Labelled)
"""The class of a result, which a selection of it keeps."""
