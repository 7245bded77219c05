"""The file of an `ActivationCache`: writing, reading, and checking that it is complete and consistent."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlx_patch import arguments
from mlx_patch.errors import FileError, PatchError, ValueRefusedError
from mlx_patch.files import (
    Format,
    Malformed,
    bits_of,
    clause_of,
    content_digest,
    open_checked,
    read_array,
    read_header,
    save_arrays,
    strict_json,
    written_whole,
)
from mlx_patch.provenance import versions
from mlx_patch.sites import Site

_FORMAT = Format("mlx_patch.ActivationCache", 2)
_MOST_TOKENS = 2**31
_TOKENS, _CHECKSUM = "tokens", "checksum"
_NAMES = {*_FORMAT.entry, "sites", "positions", "n_positions", "n_layers", "model", "versions", _CHECKSUM}


@dataclass(frozen=True, eq=False)
class Contents:
    """The contents of a cache.

    Attributes:
        activations: Arrays by site.
        tokens: The tokens of the run. Shape `(batch, pos)`; no row where the activations are of no prompt, but a mean.
        positions: The absolute positions that the arrays hold.
        n_positions: How many positions the whole prompt has.
        model: The model's identity.
        n_layers: How many blocks the model has; None if it is not known.
    """

    activations: Mapping[Site, mx.array]
    tokens: mx.array
    positions: tuple[int, ...]
    n_positions: int
    model: Mapping[str, str]
    n_layers: int | None


def write_cache(path: str | os.PathLike[str], contents: Contents) -> None:
    """Write a file for `read_cache`, whole or not at all.

    Raises:
        FileError: `path` cannot be written to, or does not end in `.safetensors`.
        ValueRefusedError: The contents do not hold together, as `read_cache` would say.
    """
    path = arguments.path("path", path)
    if not str(path).endswith(".safetensors"):
        raise FileError(f"`path` must end in '.safetensors'. Got {path}.")
    try:
        _check(contents)
    except Malformed as error:
        raise ValueRefusedError(
            f"The cache {error}, so a saved file could not be read back. Capture it again."
        ) from error
    arrays = {str(site): array for site, array in contents.activations.items()}
    arrays[_TOKENS] = contents.tokens
    metadata = _describe(contents)
    metadata[_CHECKSUM] = content_digest(metadata, arrays)
    with written_whole(path) as temporary_path:
        save_arrays(temporary_path, arrays, metadata)


def read_cache(path: str | os.PathLike[str]) -> Contents:
    """Read a file into memory, and check its entries, their consistency and the checksum.

    Raises:
        FileError: There is no such file, or it is none that `write_cache` wrote, or not as it was written.
    """
    path = arguments.path("path", path)
    try:
        metadata, arrays = _read(path)
        contents = _parse(metadata, arrays)
        _check(contents)
        _refuse_other_checksum(metadata, arrays)
    except OSError as error:
        raise _refused(path, f": {error.strerror}. Check the path") from error
    except (Malformed, PatchError) as error:
        raise _refused(path, f", which {_as_clause(error)}. Capture it again") from error
    return contents


def _refused(path: str | os.PathLike[str], reason: str) -> FileError:
    return FileError(f"`path` must be a file that ActivationCache.save wrote. Got {path}{reason}.")


def _as_clause(error: Exception) -> str:
    if isinstance(error, Malformed):
        return clause_of(error)
    return f"is damaged: {clause_of(error)}".rstrip(".")


def _describe(contents: Contents) -> dict[str, str]:
    return {
        **_FORMAT.entry,
        "sites": json.dumps([str(site) for site in contents.activations]),
        "positions": json.dumps(contents.positions),
        "n_positions": json.dumps(contents.n_positions),
        "n_layers": json.dumps(contents.n_layers),
        "model": json.dumps(dict(contents.model)),
        "versions": json.dumps(versions()),
    }


def _read(path: str | os.PathLike[str]) -> tuple[Mapping[str, str], dict[str, mx.array]]:
    with open_checked(path) as file:
        header = read_header(file)
        _refuse_other_format(header.metadata)
        return header.metadata, {name: read_array(file, entry) for name, entry in header.entries.items()}


def _refuse_other_format(metadata: Mapping[str, str]) -> None:
    version = _FORMAT.version_in(metadata)
    if version is None:
        raise Malformed("is of another kind")
    if not _FORMAT.describes(metadata):
        raise Malformed(f"is of version {version} of the format, where this mlx_patch reads {_FORMAT.version}")


def _parse(metadata: Mapping[str, str], arrays: Mapping[str, mx.array]) -> Contents:
    if metadata.keys() != _NAMES:
        raise Malformed(f"is damaged: {sorted(metadata.keys() ^ _NAMES)[0]!r} is missing or unexpected")
    about = {name: strict_json(metadata[name]) for name in _NAMES - {*_FORMAT.entry, _CHECKSUM}}
    names = about["sites"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Malformed(f"is damaged: its sites are {names!r}")
    if sorted([*names, _TOKENS]) != sorted(arrays):
        raise Malformed(f"is damaged: it names {len(names)} sites, and its arrays are {', '.join(sorted(arrays))}")
    if not isinstance(about["positions"], list):
        raise Malformed(f"is damaged: its positions are {about['positions']!r}")
    sites = {Site.parse(name): arrays[name] for name in names}
    _refuse_other_spelling(names, list(sites))
    _refuse_no_texts("model", about["model"])
    _refuse_no_texts("versions", about["versions"])
    positions = tuple(about["positions"])
    return Contents(sites, arrays[_TOKENS], positions, about["n_positions"], about["model"], about["n_layers"])


def _refuse_other_spelling(names: Sequence[str], sites: Sequence[Site]) -> None:
    if [str(site) for site in sites] != list(names):
        raise Malformed("is damaged: its sites are not named by their full names, each once")


def _refuse_no_texts(name: str, value: Any) -> None:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise Malformed(f"is damaged: its {name} is {value!r}")


def _check(contents: Contents) -> None:
    """Refuse contents that are inconsistent.

    Raises:
        Malformed: They are.
    """
    _check_counts(contents)
    _check_tokens(contents)
    _check_positions(contents)
    for site, array in contents.activations.items():
        _check_array(contents, site, array)


def _check_counts(contents: Contents) -> None:
    n, n_layers = contents.n_positions, contents.n_layers
    if type(n) is not int or n < 1:
        raise Malformed(f"is inconsistent: its prompt has {n!r} positions")
    if n_layers is not None and (type(n_layers) is not int or n_layers < 1):
        raise Malformed(f"is inconsistent: its model has {n_layers!r} layers")


def _check_tokens(contents: Contents) -> None:
    tokens, n = contents.tokens, contents.n_positions
    if not mx.issubdtype(tokens.dtype, mx.integer) or tokens.ndim != 2 or not 1 <= tokens.shape[1] <= n:
        raise Malformed(f"is inconsistent: its tokens are {tokens.dtype} of shape {tokens.shape}, for {n} positions")
    ids = bits_of(tokens)
    if not ((ids >= 0) & (ids < _MOST_TOKENS)).all():
        raise Malformed("is inconsistent: its tokens are not all token ids")


def _check_positions(contents: Contents) -> None:
    """A prompt cache may have held the first positions of the prompt; the others have tokens."""
    held, n = contents.positions, contents.n_positions
    first = n - contents.tokens.shape[1]
    if any(type(pos) is not int or not first <= pos < n for pos in held) or not held:
        raise Malformed(f"is inconsistent: it holds the positions {list(held)!r} of {first} to {n - 1}")
    if len(set(held)) < len(held):
        raise Malformed(f"is inconsistent: it holds a position twice: {list(held)}")


def _check_array(contents: Contents, site: Site, array: mx.array) -> None:
    if contents.n_layers is not None and (site.layer or 0) >= contents.n_layers:
        raise Malformed(f"is inconsistent: it holds {site}, but its model has {contents.n_layers} layers")
    if not site.axes:  # a raw path, whose axes are the module's own
        return
    if not mx.issubdtype(array.dtype, mx.floating):
        raise Malformed(f"is inconsistent: {site} is {array.dtype}")
    sizes = dict(zip(site.axes, array.shape, strict=False))
    rows = contents.tokens.shape[0] or 1  # a mean is of no prompt
    row = sizes.get("pos", sizes.get("query_pos"))
    if array.ndim != len(site.axes) or sizes["batch"] != rows or row != len(contents.positions) or 0 in array.shape:
        raise Malformed(
            f"is inconsistent: {site} has shape {array.shape}, for {rows} prompts and {len(contents.positions)} "
            f"positions with the axes {' '.join(site.axes)}"
        )


def _refuse_other_checksum(metadata: Mapping[str, str], arrays: Mapping[str, mx.array]) -> None:
    about = {name: text for name, text in metadata.items() if name != _CHECKSUM}
    if content_digest(about, arrays) != metadata[_CHECKSUM]:
        raise Malformed("is not what was written: its checksum differs")
