"""Selections of a result: by coordinates, by metric."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mlx_patch import arguments
from mlx_patch.errors import UnknownNameError, ValueRefusedError, did_you_mean, listed, shown
from mlx_patch.results._coordinates import cell_at, place_of
from mlx_patch.results._labelled import Result


def select(result: Result, labels: Mapping[str, Any]) -> Result:
    """What `SweepResult.sel` returns."""
    for axis in labels:
        if axis not in result.axes:
            suggestion = did_you_mean(axis, result.axes)
            raise UnknownNameError(f"`sel` must be given axes of the result. Got {shown(axis)}. {suggestion}")
    places = {axis: _places(axis, result.coords[axis], labels) for axis in result.axes}
    if "token" in result.coords:
        places["token"] = places["pos"]
    dropped = [axis for axis in (*result.over, "metric") if axis in labels and _is_scalar(labels[axis])]
    coords = {name: tuple(entries[place] for place in places[name]) for name, entries in result.coords.items()}
    further = {}
    for name, axes in result.further_arrays.items():
        gone = [axis for axis in dropped if axis in axes]
        further[name] = _subarray(getattr(result, name), axes, places, gone)
    baseline = _subarray(result.baseline, result.axes[-result.baseline.ndim :], places, dropped)
    if "seed" in labels and result.seed_baselines is not None:
        baseline = further["seed_baselines"]
        if "seed" in dropped:
            further["seed_baselines"] = None
        else:
            baseline = baseline.mean(axis=0)
    return replace(
        result,
        values=_subarray(result.values, result.axes, places, dropped),
        axes=tuple(axis for axis in result.axes if axis not in dropped),
        coords=_without_axes(coords, dropped),
        run_mask=_subarray(result.run_mask, result.axes, places, dropped),
        baseline=baseline,
        provenance=_selection_noted(result.provenance, dropped, coords),
        **further,
    )


def _is_scalar(label: Any) -> bool:
    """Whether a label drops its axis; a tuple is one label, of places that were patched together."""
    return not isinstance(label, list | range)


def _places(axis: str, entries: tuple[Any, ...], labels: Mapping[str, Any]) -> list[int]:
    """The places along an axis that labels select; all of them if none is named."""
    if axis not in labels:
        return list(range(len(entries)))
    selection = labels[axis]
    if _is_scalar(selection):
        selection = [selection]
    return [place_of(axis, entries, label) for label in selection]


def _without_axes(coords: Mapping[str, tuple[Any, ...]], dropped: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    removed = set(dropped)
    if "pos" in removed:
        removed.add("token")
    return {name: entries for name, entries in coords.items() if name not in removed}


def _selection_noted(
    provenance: Mapping[str, Any], dropped: Sequence[str], coords: Mapping[str, tuple[Any, ...]]
) -> dict[str, Any]:
    """The provenance with the labels of the dropped axes, beside those of earlier selections."""
    selected = dict(provenance.get("selected", {}))
    selected |= cell_at([0] * len(dropped), dropped, coords)
    if not selected:
        return dict(provenance)
    return {**provenance, "selected": selected}


def _subarray(
    array: np.ndarray, axes: Sequence[str], places: Mapping[str, list[int]], dropped: Sequence[str]
) -> np.ndarray:
    selection = array[np.ix_(*(places[axis] for axis in axes))]
    return selection.squeeze(axis=tuple(i for i, axis in enumerate(axes) if axis in dropped))


def average(result: Result, axis: str) -> Result:
    """What `SweepResult.averaged` returns."""
    axis = arguments.choice("axis", axis, result.over, "an axis of cells")
    if len(result.over) == 1:
        raise ValueRefusedError(
            f"`axis` must leave another axis of cells. Got {shown(axis)}, the only one. Use `mean`."
        )
    place = result.axes.index(axis)
    further: dict[str, Any] = {}
    for name, axes in result.further_arrays.items():
        array = getattr(result, name)
        if name == "seed_baselines" and axis == "seed":
            further[name] = None
        elif axis not in axes:
            further[name] = array
        elif array.dtype == np.bool_:
            further[name] = array.all(axis=axes.index(axis))
        else:
            further[name] = array.mean(axis=axes.index(axis))
    averaged = {**result.provenance.get("averaged", {}), axis: result.coords[axis]}
    return replace(
        result,
        values=result.values.mean(axis=place),
        axes=tuple(name for name in result.axes if name != axis),
        coords=_without_axes(result.coords, [axis]),
        run_mask=result.run_mask.all(axis=place),
        provenance={**result.provenance, "averaged": averaged},
        **further,
    )


def one_metric(result: Result, metric: str | None) -> Result:
    """What `SweepResult.of_metric` returns."""
    if metric is not None:
        metric = arguments.string("metric", metric)
    if "metric" in result.axes:
        if metric is None:
            raise ValueRefusedError(
                f"`metric` must name one of several metrics. Got None. Choose from: {listed(result.metrics)}."
            )
        return select(result, {"metric": metric})
    if metric is not None and metric not in result.metrics:
        names = listed(result.metrics) or "which has no name"
        raise ValueRefusedError(f"`metric` must be the result's own, {names}. Got {shown(metric)}. Leave it out.")
    return result
