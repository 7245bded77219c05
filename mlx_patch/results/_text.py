"""A result in a few lines."""

import numpy as np

from mlx_patch.results._coordinates import range_text, where_text
from mlx_patch.results._labelled import Labelled
from mlx_patch.results._peaks import largest_effects
from mlx_patch.results._selection import one_metric


def description(result: Labelled) -> str:
    """What a `SweepResult` prints as."""
    sizes = " x ".join(range_text(axis, result.coords[axis]) for axis in result.axes if axis != "metric")
    fixed = {axis: label for axis, label in result.provenance.get("selected", {}).items() if axis != "metric"}
    lines = [f"SweepResult: {sizes}", *([f"at {where_text(fixed)}"] if fixed else [])]
    if "metric" in result.axes:
        lines += [_numbers(one_metric(result, metric), metric) for metric in result.metrics]
    else:
        lines += [_numbers(result, result.metrics[0] if result.metrics else "value")]
    return "\n  ".join([*lines, _state(result)])


def _numbers(result: Labelled, name: str) -> str:
    means, unit = result.mean(), " (fraction of the clean-corrupted gap)" if result.is_normalised else ""
    there = means[~np.isnan(means)]
    if not there.size:
        return f"{name}{unit}: no cell has a value"
    [largest] = largest_effects(result, 1)
    return f"{name}{unit}: {there.min():.3g} to {there.max():.3g}, peak at {largest}"


def _computed_nan(result: Labelled) -> int:
    """How many cells were run and gave NaN, for a metric and an example that counts."""
    found = np.isnan(result.values) & result.run_mask & ~result.left_out
    return int(np.count_nonzero(found.any(axis=tuple(range(len(result.over), found.ndim)))))


def _state(result: Labelled) -> str:
    cells = int(np.prod([len(result.coords[axis]) for axis in result.over], dtype=int))
    missing = f"{result.missing} of {cells} cells are missing"
    parts = ["complete" if result.complete else missing]
    if computed := _computed_nan(result):
        parts += [f"{computed} of {cells} cells were computed to be NaN"]
    if result.left_out.any():
        by_example = result.left_out.reshape(-1, len(result.coords["example"]))
        parts += [f"{np.count_nonzero(by_example.any(0))} of {by_example.shape[1]} examples left out"]
    executor = result.provenance.get("executor")
    return ", ".join([*([f"executor {executor}"] if executor else []), *parts])
