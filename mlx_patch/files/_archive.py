"""Files of results: a zip of `.npy` arrays and `.json` texts, whose bytes depend on their contents alone.

Every member has the same date and is stored uncompressed, so that two runs with the same numbers give the same file.
Zip's checksums detect damage. `numpy.load` reads the arrays too.
"""

import json
import os
import zipfile
from collections.abc import Collection, Mapping
from io import BytesIO
from typing import Any

import numpy as np

from mlx_patch import arguments
from mlx_patch.errors import FileError
from mlx_patch.files._format import Format
from mlx_patch.files._json import LARGEST_JSON, strict_json
from mlx_patch.files._npy import array_of_npy
from mlx_patch.files._opening import Malformed, clause_of, open_checked
from mlx_patch.files._whole import written_whole
from mlx_patch.files._zip import opened_zip

ABOUT = "about.json"
"""The member that describes the others."""


_DTYPES = {"f": "<f4", "b": "|b1", "i": "<i8"}


_LOCAL_HEADER = 30  # bytes before each member, with its name behind them


_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that zip knows


def write_archive(path: str | os.PathLike[str], about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a description and arrays, whole or not at all.

    Args:
        path: A name that ends in `.npz`.
        about: JSON values by name; `format` is one of them.
        arrays: By name, in float32.
    Raises:
        FileError: `path` cannot be written to, or does not end in `.npz`.
    """
    if not str(arguments.path("path", path)).endswith(".npz"):
        raise FileError(f"`path` must end in '.npz'. Got {path}. Choose another name.")
    described = json.dumps(about, indent=1, sort_keys=True).encode()
    write_members(path, {ABOUT: described, **array_members(arrays)})


def write_members(path: str | os.PathLike[str], members: Mapping[str, bytes]) -> None:
    """Write a zip with these members, whole or not at all.

    Raises:
        FileError: `path` cannot be written to.
    """
    with written_whole(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(_zip_info(name), content)


def array_members(arrays: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """Members of a file for arrays: floats in float32, truth values in bool, integers in int64."""
    return {f"{name}.npy": _npy_bytes(array) for name, array in arrays.items()}


def _zip_info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.create_system = 3  # by default it names the operating system, and the bytes would differ
    info.external_attr = 0o644 << 16
    return info


def _npy_bytes(array: np.ndarray) -> bytes:
    dtype = _DTYPES[array.dtype.kind]
    contiguous = np.asarray(array, dtype, order="C")
    content = BytesIO()
    np.lib.format.write_array(content, contiguous, version=(1, 0), allow_pickle=False)
    return content.getvalue()


def read_archive(
    path: str | os.PathLike[str],
    written_by: str,
    format_: Format,
    array_names: Collection[str],
    argument: str = "path",
    remedy: str = "",
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The description and the arrays that `write_archive` wrote.

    Args:
        path: The file.
        written_by: The function that writes such files: `SweepResult.save`.
        format_: The format.
        array_names: The names that arrays may have. With others, nothing is read.
        argument: The caller's name for the file.
        remedy: What to do about a file that does not fit.
    Raises:
        FileError: There is no such file, or it is damaged, of another kind, or of another version.
    """
    path = arguments.path(argument, path)
    refusal = f"`{argument}` must be a file that {written_by} wrote. Got {path}"
    try:
        with open_checked(path) as file, opened_zip(file) as archive:
            about = _about_in(archive)
            format_.refuse_other_version(about, argument, path, remedy or "Read it with the mlx_patch that wrote it.")
            if not format_.describes(about):
                raise FileError(f"{refusal}, which is of another kind. {remedy}".rstrip())
            arrays = _arrays_in(archive, array_names)
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{refusal}: {error.strerror}. {remedy}".rstrip()) from error
    except Malformed as error:
        raise FileError(f"{refusal}, which {clause_of(error)}. {remedy}".rstrip()) from error
    return about, arrays


def about_of_archive(path: str | os.PathLike[str]) -> Any:
    """The description in a file that `write_archive` wrote, whatever its format.

    Raises:
        OSError: There is no such file, or it cannot be read.
        Malformed: It is damaged, or of another kind.
    """
    with open_checked(path) as file, opened_zip(file) as archive:
        return _about_in(archive)


def _about_in(archive: zipfile.ZipFile) -> Any:
    _refuse_gaps(archive)
    if ABOUT not in archive.namelist():
        raise Malformed(f"is damaged or of another kind: it has no {ABOUT}")
    size = archive.getinfo(ABOUT).file_size
    if size > LARGEST_JSON:
        raise Malformed(f"has {size} bytes in {ABOUT}, where at most {LARGEST_JSON} are read")
    return strict_json(archive.read(ABOUT), allow_nan=True)  # in a provenance, the score of an example may be NaN


def _refuse_gaps(archive: zipfile.ZipFile) -> None:
    """Refuse a directory that leaves out members: one wrong bit in it hides those behind it, which no sum notices.

    Raises:
        Malformed: The members do not lie one behind the other, from the first byte to the directory.
    """
    end = 0
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        if info.header_offset != end:
            break
        end += _LOCAL_HEADER + len(info.filename.encode()) + info.file_size
    if end != archive.start_dir:
        raise Malformed("is damaged: its directory leaves out a member, or has one twice")


def _arrays_in(archive: zipfile.ZipFile, array_names: Collection[str]) -> dict[str, np.ndarray]:
    """The arrays of a zip, by name.

    Raises:
        Malformed: There is one of another name, or it is not as it was written.
    """
    members = {f"{name}.npy": name for name in array_names}
    for name in archive.namelist():
        if name != ABOUT and name not in members:
            raise Malformed(f"holds {name[:80]!r}, which no such file holds")
    names = [name for name in archive.namelist() if name != ABOUT]
    return {members[name]: _array(archive.read(name), name) for name in names}


def _array(content: bytes, name: str) -> np.ndarray:
    try:
        array = array_of_npy(content)
    except Malformed as error:
        raise Malformed(f"is damaged: {name!r} {error}") from error
    if array.dtype.str not in _DTYPES.values():
        raise Malformed(f"is damaged: {name!r} has numbers of {array.dtype}")
    return array.copy()
