"""The index of a store: what it is of, and its shards. A JSON file, written whole after every shard."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_patch.errors import FileError, KindError, PatchError
from mlx_patch.files import written_whole
from mlx_patch.sites import Site

FORMAT = "mlx_patch.ActivationStore/1"
NAME = "index.json"
_KIND = FORMAT.partition("/")[0]


@dataclass(frozen=True)
class Held:
    """One site of a store.

    Attributes:
        site: Its full name.
        shape: The axes of one row, which is one position of one prompt.
        dtype: `"bfloat16"`, say.
    """

    site: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of one row."""
        return prod(self.shape) * getattr(mx, self.dtype).size


@dataclass(frozen=True)
class Shard:
    """One file of a store.

    Attributes:
        file: Its name in the folder.
        prompts: How many prompts it holds.
        rows: How many positions it keeps of them, together.
        bytes: The size of the file.
        crc32: Of the whole file, 8 hex digits.
    """

    file: str
    prompts: int
    rows: int
    bytes: int
    crc32: str


@dataclass(frozen=True)
class Index:
    """What a store is of, and what it has.

    Attributes:
        identity: What makes a capture the same as another: JSON values by name.
        model: The model's identity, as a cache says it.
        n_layers: How many blocks the model has.
        sites: The sites, in order.
        shards: The files that are whole, in the order of prompts.
        complete: Whether all prompts are in them.
    """

    identity: Mapping[str, Any]
    model: Mapping[str, str]
    n_layers: int
    sites: tuple[Held, ...]
    shards: tuple[Shard, ...] = ()
    complete: bool = False

    def __post_init__(self) -> None:
        for held in self.sites:
            Site.parse(held.site)
            if not isinstance(getattr(mx, held.dtype), mx.Dtype):
                raise TypeError(f"{held.dtype!r} is no dtype")

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of every site."""
        return sum(held.nbytes for held in self.sites)

    def having(self, shard: Shard) -> "Index":
        """The index once another shard is there."""
        return replace(self, shards=(*self.shards, shard))

    def write(self, folder: Path) -> None:
        """Put it into its file, whole or not at all."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True)
        with written_whole(folder / NAME) as beside:
            beside.write_text(f"{text}\n", encoding="utf-8")


def folder_of(path: object) -> Path:
    """The path of a folder.

    Raises:
        KindError: It is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise KindError(f"`path` must be the path of a folder. Got {type(path).__name__}.")
    return Path(path)


def read_index(folder: Path) -> Index:
    """The index of a store.

    Raises:
        FileError: There is none, or it is damaged, of another kind, or of another version.
    """
    wanted = f"`path` must be a folder that ActivationStore.capture wrote. Got {folder}"
    try:
        about = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"{wanted}: {NAME}: {error.strerror}. Check the path.") from error
    except ValueError as error:
        raise FileError(f"{wanted}, whose {NAME} is damaged: {error}. Capture into another folder.") from error
    got = about.pop("format", None) if isinstance(about, dict) else None
    if isinstance(got, str) and got.startswith(f"{_KIND}/") and got != FORMAT:
        version = FORMAT.partition("/")[2]
        raise FileError(
            f"`path` must be of version {version} of its format. Got {folder}, of version {got.partition('/')[2]}. "
            "Read it with the mlx_patch that wrote it."
        )
    if got != FORMAT:
        raise FileError(f"{wanted}, whose {NAME} is of another kind. Check the path.")
    try:
        sites = tuple(Held(**{**one, "shape": tuple(one["shape"])}) for one in about.pop("sites"))
        return Index(sites=sites, shards=_shards(about.pop("shards")), **about)
    except (PatchError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileError(f"{wanted}, whose {NAME} does not fit: {error}. Capture into another folder.") from error


def _shards(given: Sequence[Mapping[str, Any]]) -> tuple[Shard, ...]:
    return tuple(Shard(**one) for one in given)
