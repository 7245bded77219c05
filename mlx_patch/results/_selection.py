"""Parts of a result: by coordinates, by metric, by effect."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mlx_patch.errors import UnknownNameError, ValueRefusedError, did_you_mean, listed
from mlx_patch.results._coordinates import cell_at, place_of
from mlx_patch.results._labelled import Result


def select(result: Result, labels: Mapping[str, Any]) -> Result:
    """What `SweepResult.sel` returns."""
    for axis in labels:
        if axis not in result.axes:
            known = did_you_mean(axis, result.axes)
            raise UnknownNameError(f"`sel` must be given axes of the result. Got {axis!r}. {known}")
    places = {axis: _places(axis, of, labels) for axis, of in result.coords.items() if axis in result.axes}
    dropped = [axis for axis in (*result.over, "metric") if axis in labels and _is_one(labels[axis])]
    coords = {
        name: tuple(of[place] for place in places["pos" if name == "token" else name])
        for name, of in result.coords.items()
    }
    gone = {*dropped, "token"} if "pos" in dropped else set(dropped)
    fixed = {**result.provenance.get("selected", {}), **cell_at([0] * len(dropped), dropped, coords)}
    return replace(
        result,
        values=_taken(result.values, result.axes, places, dropped),
        axes=tuple(axis for axis in result.axes if axis not in dropped),
        coords={name: of for name, of in coords.items() if name not in gone},
        run_mask=_taken(result.run_mask, result.axes, places, dropped),
        baseline=_taken(result.baseline, result.axes[-result.baseline.ndim :], places, dropped),
        provenance={**result.provenance, **({"selected": fixed} if fixed else {})},
    )


def _is_one(label: Any) -> bool:
    return not isinstance(label, list | range)


def _places(axis: str, known: tuple[Any, ...], labels: Mapping[str, Any]) -> list[int]:
    if axis not in labels:
        return list(range(len(known)))
    wanted = [labels[axis]] if _is_one(labels[axis]) else labels[axis]
    return [place_of(axis, known, label) for label in wanted]


def _taken(
    array: np.ndarray, axes: Sequence[str], places: Mapping[str, list[int]], dropped: Sequence[str]
) -> np.ndarray:
    part = array[np.ix_(*(places[axis] for axis in axes))]
    return part.squeeze(axis=tuple(i for i, axis in enumerate(axes) if axis in dropped))


def one_metric(result: Result, metric: str | None) -> Result:
    """What `SweepResult.of_metric` returns."""
    if "metric" in result.axes:
        if metric is None:
            raise ValueRefusedError(
                f"`metric` must say which, where there are several. Got None. Choose from: {listed(result.metrics)}."
            )
        return select(result, {"metric": metric})
    if metric is not None and metric not in result.metrics:
        own = listed(result.metrics) or "which has no name"
        raise ValueRefusedError(f"`metric` must be the result's own, {own}. Got {metric!r}. Leave it out.")
    return result
