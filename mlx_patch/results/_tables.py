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
    """One row per cell, metric and example, in the order of the values: the axes, `token`, `value`, `baseline`."""
    pandas = import_optional("pandas", "to_pandas")
    places = [place.ravel() for place in np.indices(values.shape)]
    columns: dict[str, Any] = {}
    for axis, place in zip(axes, places, strict=True):
        columns[axis] = [coords[axis][index] for index in place]
        if axis == "pos" and "token" in coords:
            columns["token"] = [coords["token"][index] for index in place]
    columns["value"] = values.ravel()
    columns["baseline"] = np.broadcast_to(baseline, values.shape).ravel()
    return pandas.DataFrame(columns)


def data_array(
    values: np.ndarray,
    axes: tuple[str, ...],
    coords: Mapping[str, tuple[Any, ...]],
    baseline: np.ndarray,
    attributes: Mapping[str, Any],
) -> "xarray.DataArray":
    """The values with their coordinates, `token` along `pos`, and `baseline` as a coordinate of its own axes."""
    xarray = import_optional("xarray", "to_xarray")
    coordinates: dict[str, Any] = {name: (name, _index(labels)) for name, labels in coords.items()}
    if "token" in coords:
        coordinates["token"] = ("pos", _index(coords["token"]))
    coordinates["baseline"] = (axes[-baseline.ndim :], baseline.copy())
    return xarray.DataArray(values.copy(), dims=axes, coords=coordinates, attrs=dict(attributes), name="value")


def _index(labels: tuple[Any, ...]) -> list[Any]:
    """Labels as an index; groups as text, since xarray would make a multi-level index of tuples."""
    if any(isinstance(label, tuple) for label in labels):
        return list(map(label_text, labels))
    return list(labels)


def import_optional(package: str, needed_for: str) -> Any:
    """A package that an extra of the same name installs.

    Args:
        package: Its name.
        needed_for: The method that needs it.
    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(
            f'`{needed_for}` needs {package}. Got: {error}. Install the extra: pip install "mlx-patch[{package}]".'
        ) from error
