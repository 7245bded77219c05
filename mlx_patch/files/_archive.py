"""Files of results: a zip of `.npy` arrays and `.json` texts, whose bytes depend on what is in them alone.

Every member has the same date and is stored as it is, so that two runs that gave the same numbers give the same file;
zip's checksums tell when one was damaged. `numpy.load` reads the arrays too.
"""

import json
import os
import struct
import zipfile
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np

from mlx_patch.errors import FileError
from mlx_patch.files._safetensors import open_checked, strict_json
from mlx_patch.files._whole import written_whole

ABOUT = "about.json"
"""The member that describes the others."""


_DTYPES = {"f": "<f4", "b": "|b1", "i": "<i8"}


_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that zip knows


_UNREADABLE = (
    zipfile.BadZipFile,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,
    struct.error,
    OverflowError,
    MemoryError,
)


def write_archive(path: str | os.PathLike[str], about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a description and arrays, whole or not at all.

    Args:
        path: A name that ends in `.npz`.
        about: JSON values by name; `format` is one of them.
        arrays: By name, in float32.
    Raises:
        FileError: `path` cannot be written to, or does not end in `.npz`.
    """
    if not str(path).endswith(".npz"):
        raise FileError(f"`path` must end in '.npz'. Got {path}. Choose another name.")
    described = json.dumps(about, indent=1, sort_keys=True).encode()
    write_members(path, {ABOUT: described, **array_members(arrays)})


def write_members(path: str | os.PathLike[str], members: Mapping[str, bytes]) -> None:
    """Write a zip with such members, whole or not at all.

    Raises:
        FileError: `path` cannot be written to.
    """
    with written_whole(path) as beside, zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(_entry(name), content)


def array_members(arrays: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """Arrays of floats, truth values or integers as members of a file: in float32, in bool, in int64."""
    return {f"{name}.npy": _npy(array) for name, array in arrays.items()}


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.create_system = 3  # else it says on which kind of machine it was written
    entry.external_attr = 0o644 << 16
    return entry


def _npy(array: np.ndarray) -> bytes:
    content, dtype = BytesIO(), _DTYPES[array.dtype.kind]
    np.lib.format.write_array(content, np.asarray(array, dtype, order="C"), version=(1, 0), allow_pickle=False)
    return content.getvalue()


def read_archive(
    path: str | os.PathLike[str], written_by: str, format_: str, argument: str = "path", remedy: str = ""
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The description and the arrays that `write_archive` wrote.

    Args:
        path: The file.
        written_by: Who writes such files: `SweepResult.save`.
        format_: The format and its version: `mlx_patch.SweepResult/1`.
        argument: What the caller calls the file.
        remedy: What to do about a file that is not one.
    Raises:
        FileError: There is no such file, or it is damaged, of another kind, or of another version.
    """
    wanted = f"`{argument}` must be a file that {written_by} wrote. Got {path}"
    try:
        contents = _members(path)
        about = strict_json(contents.pop(ABOUT))
        arrays = {name.removesuffix(".npy"): _array(content) for name, content in contents.items()}
    except OSError as error:
        raise FileError(f"{wanted}: {error.strerror}. {remedy}".rstrip()) from error
    except _UNREADABLE as error:
        raise FileError(f"{wanted}, which is damaged or of another kind: {error}. {remedy}".rstrip()) from error
    got = about.get("format") if isinstance(about, dict) else None
    kind, _, version = format_.partition("/")
    if isinstance(got, str) and got.startswith(f"{kind}/") and got != format_:
        raise FileError(
            f"`{argument}` must be of version {version} of its format. Got {path}, of version "
            f"{got.partition('/')[2]}. {remedy or 'Read it with the mlx_patch that wrote it.'}"
        )
    if got != format_:
        raise FileError(f"{wanted}, which is of another kind. {remedy}".rstrip())
    return about, arrays


def _members(path: str | os.PathLike[str]) -> dict[str, bytes]:
    """What a zip holds, each member's bytes by name.

    Raises:
        OSError, zipfile.BadZipFile, ValueError: It cannot be read, is damaged, or has two members of one name.
    """
    with open_checked(path) as file, zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if len(set(names)) < len(names):
            raise ValueError("two members have one name")
        return {name: archive.read(name) for name in names}


def _array(content: bytes) -> np.ndarray:
    array = np.lib.format.read_array(BytesIO(content), allow_pickle=False)
    return array if array.dtype.kind in "bi" else array.astype(np.float32)
