"""Files of fitted lenses: matrices, with a description of the fit and the identity of the model."""

import json
import os
from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from mlx_patch import arguments
from mlx_patch.errors import FileError, PatchError, listed
from mlx_patch.files import (
    Format,
    Malformed,
    clause_of,
    content_digest,
    open_checked,
    read_array,
    read_header,
    save_arrays,
    strict_json,
    written_whole,
)
from mlx_patch.fingerprints import differences
from mlx_patch.lens._fit_record import FitRecord
from mlx_patch.lens._fitted_lens import lens_identity
from mlx_patch.model import HookedModel, require_hooked
from mlx_patch.provenance import versions
from mlx_patch.sites import Site

_CHECKSUM = "checksum"
_BY_SITE = ("before", "after")

Arrays = Mapping[str, Mapping[Site, mx.array]]
"""Arrays by what they are, `matrix` or `bias`, and by site."""


def write_lens(
    path: str | os.PathLike[str], format_: Format, identity: Mapping[str, str], fit: FitRecord, arrays: Arrays
) -> None:
    """Write a file for `read_lens`, whole or not at all. Equal lenses give equal bytes.

    Raises:
        FileError: `path` cannot be written to, or does not end in `.safetensors`.
    """
    path = arguments.path("path", path)
    if not str(path).endswith(".safetensors"):
        raise FileError(f"`path` must end in '.safetensors'. Got {path}. Choose another name.")
    named: dict[str, mx.array] = {}
    for kind, by_site in arrays.items():
        named |= {f"{kind} {site}": array for site, array in by_site.items()}
    record: dict[str, Any] = dict(vars(fit))
    for name in _BY_SITE:
        record[name] = {str(site): number for site, number in record[name].items()}
    metadata = dict(format_.entry)
    metadata["identity"] = json.dumps(dict(identity))
    metadata["fit"] = json.dumps(record)
    metadata["versions"] = json.dumps(versions())
    metadata[_CHECKSUM] = content_digest(metadata, named)
    with written_whole(path) as temporary:
        save_arrays(temporary, named, metadata)


def read_lens(
    path: str | os.PathLike[str], format_: Format, model: HookedModel, kinds: Mapping[str, int]
) -> tuple[dict[str, str], FitRecord, dict[str, dict[Site, mx.array]]]:
    """The identity, the fit and the arrays that `write_lens` wrote.

    Args:
        path: The file.
        format_: Its format.
        model: The model that the lens must be for.
        kinds: The arrays a site, `matrix` or `bias`, with their axes, each as long as the stream is wide.
    Raises:
        FileError: There is no such file, it is of another kind or not as it was written, or for another model.
    """
    path = arguments.path("path", path)
    require_hooked("model", model)
    try:
        metadata, named = _read(path, format_)
        identity = strict_json(metadata["identity"])
        fit = _fit_of(strict_json(metadata["fit"], allow_nan=True))  # a divergence may have overflowed
        arrays = _by_site(named, tuple(fit.before), kinds)
    except OSError as error:
        raise _refused(path, format_, f": {error.strerror}. Check the path.") from error
    except (Malformed, PatchError) as error:
        raise _refused(path, format_, f", which {clause_of(error)}. Fit the lens again.") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise _refused(path, format_, f", which is damaged: {clause_of(error)}. Fit the lens again.") from error
    clauses = listed(differences({"model": identity}, {"model": lens_identity(model)}))
    if clauses:
        raise FileError(
            f"`path` must hold a lens for this model. Got {path}, for {clause_of(clauses)}. Load it with the model "
            "that it was fitted on; `lens.on(model)` carries it over."
        )
    if any(array.shape[0] != model.d_model for by_site in arrays.values() for array in by_site.values()):
        raise _refused(path, format_, ", whose maps have not the width of its own model. Fit the lens again.")
    return identity, fit, arrays


def _refused(path: str | os.PathLike[str], format_: Format, reason: str) -> FileError:
    writer = f"{format_.name.rpartition('.')[2]}.save"
    return FileError(f"`path` must be a file that {writer} wrote. Got {path}{reason}")


def _read(path: str | os.PathLike[str], format_: Format) -> tuple[Mapping[str, str], dict[str, mx.array]]:
    with open_checked(path) as file:
        header = read_header(file)
        if not format_.describes(header.metadata):
            raise Malformed(f"is not of the format {format_}")
        arrays = {name: read_array(file, entry) for name, entry in header.entries.items()}
    about = dict(header.metadata)
    checksum = about.pop(_CHECKSUM, None)
    if content_digest(about, arrays) != checksum:
        raise Malformed("is not what was written: its checksum differs")
    return about, arrays


def _fit_of(record: Any) -> FitRecord:
    """The record that JSON values describe.

    Raises:
        Malformed, PatchError, KeyError, TypeError: They describe none.
    """
    if not isinstance(record, dict):
        raise Malformed("is damaged: its fit is no record")
    for name in _BY_SITE:
        record[name] = _divergences(name, record[name])
    fit = FitRecord(**{**record, "held_out": tuple(record["held_out"])})
    counts = (fit.prompts, fit.positions, fit.held_out_positions, *fit.held_out)
    if not all(type(count) is int and count >= 0 for count in counts):
        raise Malformed("is damaged: its fit counts no prompts and positions")
    if not isinstance(fit.settings, dict) or not _maps_to_texts(fit.model):
        raise Malformed("is damaged: its fit does not say how, or on which model")
    if not fit.before or fit.before.keys() != fit.after.keys():
        raise Malformed("is damaged: its fit has not the same sites before and after")
    return fit


def _divergences(name: str, by_site: Any) -> dict[Site, float]:
    """Divergences by site.

    Raises:
        Malformed: They are no numbers by site.
    """
    if not isinstance(by_site, dict) or not all(isinstance(number, int | float) for number in by_site.values()):
        raise Malformed(f"is damaged: {name!r} does not map sites to numbers")
    return {Site.parse(site): float(number) for site, number in by_site.items()}


def _maps_to_texts(mapping: object) -> bool:
    return isinstance(mapping, dict) and all(isinstance(text, str) for text in mapping.values())


def _by_site(
    named: Mapping[str, mx.array], sites: tuple[Site, ...], kinds: Mapping[str, int]
) -> dict[str, dict[Site, mx.array]]:
    """The arrays by what they are, and by site.

    Raises:
        Malformed: They are others, or are not of one width.
    """
    if len(named) != len(sites) * len(kinds):
        raise Malformed(f"is damaged: it has {len(named)} arrays for {len(sites)} sites")
    arrays: dict[str, dict[Site, mx.array]] = {}
    for kind, n_axes in kinds.items():
        arrays[kind] = {site: named[f"{kind} {site}"] for site in sites}
        if not all(_is_map(array, n_axes) for array in arrays[kind].values()):
            raise Malformed(f"is damaged: not every {kind} has {n_axes} equal axes in float32")
    return arrays


def _is_map(array: mx.array, n_axes: int) -> bool:
    return array.ndim == n_axes and len(set(array.shape)) == 1 and array.dtype == mx.float32
