"""What a result is made of, checked when it is made."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlx_patch.errors import KindError, ShapeError


def locked(name: str, given: object) -> np.ndarray:
    """A read-only copy of an array in float32.

    Raises:
        KindError: It is no numpy array, or of another dtype.
    """
    if not isinstance(given, np.ndarray) or given.dtype != np.float32:
        got = f"an array of {given.dtype}" if isinstance(given, np.ndarray) else type(given).__name__
        raise KindError(f"`{name}` must be a numpy array of float32. Got {got}. Use `.astype(np.float32)`.")
    copy = given.copy()
    copy.flags.writeable = False
    return copy


def check_baseline(baseline: np.ndarray, axes: tuple[str, ...], shape: tuple[int, ...]) -> None:
    """Refuse a baseline that has not the last axes of the values.

    Raises:
        ShapeError: It has not.
    """
    wanted = shape[-2:] if "metric" in axes else shape[-1:]
    if baseline.shape != wanted:
        raise ShapeError(
            f"`baseline` must have the last axes of `values`, shape {wanted}. Got {baseline.shape}. "
            "Give one number an example, and a metric if there are several."
        )


def mask_of_runs(given: object, values: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Which values were run, read-only. A number was, whatever the mask says.

    Args:
        given: The mask; None takes for run what is not NaN, in its baseline too.
        values: The values.
        baseline: Of the unpatched run.
    Raises:
        KindError: It is no numpy array of truth values.
        ShapeError: It has not the shape of the values.
    """
    there = ~np.isnan(values)
    if given is None:
        mask = there & ~np.isnan(baseline)
    elif not isinstance(given, np.ndarray) or given.dtype != np.bool_:
        got = f"an array of {given.dtype}" if isinstance(given, np.ndarray) else type(given).__name__
        raise KindError(f"`run_mask` must be a numpy array of bool. Got {got}. Use `.astype(bool)`.")
    elif given.shape != values.shape:
        raise ShapeError(
            f"`run_mask` must have the shape of `values`, {values.shape}. Got {given.shape}. "
            "Give one truth value a number."
        )
    else:
        mask = given | there
    mask.flags.writeable = False
    return mask


def json_value(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a mapping as JSON gives it back: tuples as lists, keys as texts.

    Raises:
        KindError: JSON does not have what is in it.
    """
    try:
        return json.loads(json.dumps(dict(given)))
    except (TypeError, ValueError) as error:
        raise KindError(f"`{name}` must be a mapping of JSON values. Got: {error}. Write it as text.") from error
