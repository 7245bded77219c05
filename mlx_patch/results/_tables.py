"""Results as tables: a long pandas DataFrame, an xarray DataArray."""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mlx_patch.errors import MissingExtraError
from mlx_patch.results._coordinates import label_text

if TYPE_CHECKING:
    import pandas
    import xarray


def long_frame(
    values: np.ndarray, axes: tuple[str, ...], coords: Mapping[str, tuple[Any, ...]], baseline: np.ndarray
) -> "pandas.DataFrame":
    """One row a cell, metric and example, in the order of the values: the axes, `token`, `value`, `baseline`."""
    pandas = _optional("pandas", "to_pandas")
    places = [place.ravel() for place in np.indices(values.shape)]
    columns: dict[str, Any] = {}
    for axis, place in zip(axes, places, strict=True):
        columns[axis] = [coords[axis][index] for index in place]
        if axis == "pos" and "token" in coords:
            columns["token"] = [coords["token"][index] for index in place]
    spread = np.broadcast_to(baseline, values.shape)
    return pandas.DataFrame({**columns, "value": values.ravel(), "baseline": spread.ravel()})


def data_array(
    values: np.ndarray,
    axes: tuple[str, ...],
    coords: Mapping[str, tuple[Any, ...]],
    baseline: np.ndarray,
    attributes: Mapping[str, Any],
) -> "xarray.DataArray":
    """The values with their coordinates, `token` along `pos`, and `baseline` as a coordinate of its own axes."""
    xarray = _optional("xarray", "to_xarray")
    along: dict[str, Any] = {
        name: ("pos" if name == "token" else name, _index(labels)) for name, labels in coords.items()
    }
    along["baseline"] = (axes[-baseline.ndim :], baseline.copy())
    return xarray.DataArray(values.copy(), dims=axes, coords=along, attrs=dict(attributes), name="value")


def _index(labels: tuple[Any, ...]) -> list[Any]:
    """Labels as an index; groups in words, since xarray would make an index of several levels of tuples."""
    grouped = any(isinstance(label, tuple) for label in labels)
    return [label_text(label) for label in labels] if grouped else list(labels)


def _optional(package: str, needed_for: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(
            f"`{needed_for}` must have {package} to work with. Got: {error}. "
            f'Install the extra: pip install "mlx-patch[{package}]".'
        ) from error
