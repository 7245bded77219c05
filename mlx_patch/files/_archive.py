"""Files of results: a zip of `.npy` arrays and `.json` texts, whose bytes depend on their contents alone.

Every member has the same date and is stored uncompressed, so that two runs with the same numbers give the same file.
Zip's checksums detect damage. `numpy.load` reads the arrays too.
"""

import json
import os
import struct
import zipfile
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np

from mlx_patch import arguments
from mlx_patch.errors import FileError
from mlx_patch.files._format import Format
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
    path: str | os.PathLike[str], written_by: str, format_: Format, argument: str = "path", remedy: str = ""
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The description and the arrays that `write_archive` wrote.

    Args:
        path: The file.
        written_by: The function that writes such files: `SweepResult.save`.
        format_: The format.
        argument: The caller's name for the file.
        remedy: What to do about a file that does not fit.
    Raises:
        FileError: There is no such file, or it is damaged, of another kind, or of another version.
    """
    path = arguments.path(argument, path)
    refusal = f"`{argument}` must be a file that {written_by} wrote. Got {path}"
    try:
        members = _read_members(path)
        about = strict_json(members.pop(ABOUT))
        arrays = {name.removesuffix(".npy"): _array(content) for name, content in members.items()}
    except OSError as error:
        raise FileError(f"{refusal}: {error.strerror}. {remedy}".rstrip()) from error
    except _UNREADABLE as error:
        raise FileError(f"{refusal}, which is damaged or of another kind: {error}. {remedy}".rstrip()) from error
    format_.refuse_other_version(about, argument, path, remedy or "Read it with the mlx_patch that wrote it.")
    if not format_.describes(about):
        raise FileError(f"{refusal}, which is of another kind. {remedy}".rstrip())
    return about, arrays


def _read_members(path: str | os.PathLike[str]) -> dict[str, bytes]:
    """The members of a zip, bytes by name.

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
    if array.dtype.kind in "bi":
        return array
    return array.astype(np.float32)
