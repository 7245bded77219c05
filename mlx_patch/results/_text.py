"""The text of a result."""

from math import prod

import numpy as np

from mlx_patch.results._captions import short_metric, short_metrics
from mlx_patch.results._coordinates import range_text, where_text
from mlx_patch.results._labelled import Labelled
from mlx_patch.results._peaks import largest_effects
from mlx_patch.results._selection import one_metric


def description(result: Labelled) -> str:
    """The `repr` of a result of cells."""
    sizes = " x ".join(range_text(axis, result.coords[axis]) for axis in result.axes if axis != "metric")
    lines = [f"{type(result).__name__}: {sizes}"]
    selected = dict(result.provenance.get("selected", {}))
    selected.pop("metric", None)
    if selected:
        lines.append(f"at {where_text(selected)}")
    if "metric" in result.axes:
        for metric, name in zip(result.metrics, short_metrics(result.metrics), strict=True):
            lines.append(_range_line(one_metric(result, metric), name))
    else:
        lines.append(_range_line(result, short_metric(result.metrics, "value")))
    lines.append(_state_line(result))
    return "\n  ".join(lines)


def _range_line(result: Labelled, name: str) -> str:
    """The range of a metric's means, and its peak."""
    if result.is_normalised:
        name = f"{name} (fraction of the clean-corrupted gap)"
    means = result.mean()
    numbers = means[~np.isnan(means)]
    if not numbers.size:
        return f"{name}: no cell has a value"
    [peak] = largest_effects(result, 1)
    return f"{name}: {numbers.min():.3g} to {numbers.max():.3g}, peak at {peak}"


def _computed_nan(result: Labelled) -> int:
    """The number of cells that were run and gave NaN, for a metric and an example that counts."""
    is_nan = np.isnan(result.values) & result.run_mask & ~result.left_out
    inner_axes = tuple(range(len(result.over), is_nan.ndim))
    return int(np.count_nonzero(is_nan.any(axis=inner_axes)))


def _state_line(result: Labelled) -> str:
    """The executor, and what is missing, NaN or left out."""
    n_cells = prod(len(result.coords[axis]) for axis in result.over)
    phrases = []
    if executor := result.provenance.get("executor"):
        phrases.append(f"executor {executor}")
    if result.complete:
        phrases.append("complete")
    else:
        phrases.append(f"{result.missing} of {n_cells} cells are missing")
    if computed := _computed_nan(result):
        phrases.append(f"{computed} of {n_cells} cells were computed to be NaN")
    if result.left_out.any():
        n_examples = len(result.coords["example"])
        by_example = result.left_out.reshape(-1, n_examples)
        n_left_out = np.count_nonzero(by_example.any(0))
        phrases.append(f"{n_left_out} of {n_examples} examples left out")
    return ", ".join(phrases)
