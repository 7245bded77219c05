"""The index of a store: its identity and its shards, in a JSON file written atomically after every shard."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from math import prod
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_patch import arguments
from mlx_patch.errors import FileError, PatchError
from mlx_patch.files import Format, Malformed, clause_of, json_of_file, written_whole
from mlx_patch.sites import Site

_FORMAT = Format("mlx_patch.ActivationStore", 2)
NAME = "index.json"
_CHECKSUM = "checksum"
_CRC = re.compile("[0-9a-f]{8}")


@dataclass(frozen=True)
class StoredSite:
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
    """The identity of a store, and its shards.

    Attributes:
        identity: The identity of the capture: JSON values by name.
        model: The model's identity, as in a cache.
        n_layers: How many blocks the model has.
        sites: The sites, in order.
        shards: The finished files, in the order of prompts.
        complete: Whether they hold all prompts.
    """

    identity: Mapping[str, Any]
    model: Mapping[str, str]
    n_layers: int
    sites: tuple[StoredSite, ...]
    shards: tuple[Shard, ...] = ()
    complete: bool = False

    def __post_init__(self) -> None:
        _check_kinds(self)
        for site in self.sites:
            _check_site(site, self.n_layers)
        if len({site.site for site in self.sites}) < len(self.sites):
            raise Malformed("it names a site twice")
        for number, shard in enumerate(self.shards):
            _check_shard(number, shard)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of every site."""
        return sum(site.nbytes for site in self.sites)

    def with_shard(self, shard: Shard) -> "Index":
        """The index with one more shard."""
        return replace(self, shards=(*self.shards, shard))

    def write(self, folder: Path) -> None:
        """Write the file of the index, whole or not at all."""
        about = {**_FORMAT.entry, **asdict(self)}
        text = json.dumps({**about, _CHECKSUM: _checksum(about)}, indent=1, sort_keys=True)
        with written_whole(folder / NAME) as temporary:
            temporary.write_text(f"{text}\n", encoding="utf-8")


def file_name(number: int) -> str:
    """The name of a shard. No other name is opened, so that an index cannot lead out of its folder.

    Example:
        >>> file_name(7)
        'shard-00007.safetensors'
    """
    return f"shard-{number:05}.safetensors"


def _check_kinds(index: Index) -> None:
    """Refuse values of other kinds than `write` writes.

    Raises:
        Malformed: There is one.
    """
    holds_texts = isinstance(index.model, dict) and all(isinstance(text, str) for text in index.model.values())
    if not holds_texts or not isinstance(index.identity, dict):
        raise Malformed("its model and its identity do not map names to text")
    if not _is_count(index.n_layers) or not isinstance(index.complete, bool):
        raise Malformed(f"its model has {index.n_layers!r} layers, and it is complete: {index.complete!r}")


def _check_site(stored: StoredSite, n_layers: int) -> None:
    site = Site.parse(stored.site)
    if str(site) != stored.site or (site.layer or 0) >= n_layers:
        raise Malformed(f"{stored.site!r} is not the full name of a site in {n_layers} layers")
    if not isinstance(stored.dtype, str) or not isinstance(getattr(mx, stored.dtype, None), mx.Dtype):
        raise Malformed(f"{stored.dtype!r} is not a dtype")
    if not all(map(_is_count, stored.shape)):
        raise Malformed(f"{stored.site!r} has rows of shape {stored.shape}")


def _check_shard(number: int, shard: Shard) -> None:
    if shard.file != file_name(number):
        raise Malformed(f"shard {number} must be {file_name(number)}, but is {shard.file!r}")
    are_counts = all(map(_is_count, (shard.prompts, shard.rows, shard.bytes)))
    if not are_counts or shard.rows < shard.prompts:
        raise Malformed(f"{shard.file} has {shard.prompts!r} prompts, {shard.rows!r} rows, {shard.bytes!r} bytes")
    if not isinstance(shard.crc32, str) or not _CRC.fullmatch(shard.crc32):
        raise Malformed(f"{shard.file} has the checksum {shard.crc32!r}")


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


def _checksum(about: Mapping[str, Any]) -> str:
    """32 hex digits that depend on an index's contents, and not on the layout of its JSON."""
    return blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=16).hexdigest()


def folder_of(path: object) -> Path:
    """The path of a folder.

    Raises:
        KindError: It is no path.
    """
    return arguments.path("path", path)


def read_index(folder: Path) -> Index:
    """The index of a store.

    Raises:
        FileError: There is none, or it is damaged, of another kind, or of another version.
    """
    refusal = f"`path` must be a folder that ActivationStore.capture wrote. Got {folder}"
    try:
        about = json_of_file(folder / NAME, follow=False)
    except OSError as error:
        raise FileError(f"{refusal}: {NAME}: {error.strerror}. Check the path.") from error
    except Malformed as error:
        raise FileError(f"{refusal}, whose {NAME} {clause_of(error)}. Capture into another folder.") from error
    _FORMAT.refuse_other_version(about, "path", folder, "Read it with the mlx_patch that wrote it, or capture again.")
    if not _FORMAT.describes(about):
        raise FileError(f"{refusal}, whose {NAME} is of another kind. Check the path.")
    try:
        return _parse_index({name: value for name, value in about.items() if name not in _FORMAT.entry})
    except (PatchError, Malformed, KeyError, TypeError, AttributeError) as error:
        raise FileError(
            f"{refusal}, whose {NAME} is inconsistent: {clause_of(error)}. Capture into another folder."
        ) from error


def _parse_index(about: dict[str, Any]) -> Index:
    """The index that JSON values describe.

    Raises:
        Malformed, PatchError, KeyError, TypeError, AttributeError: They describe none, or are not those of `write`.
    """
    sites = tuple(StoredSite(**{**fields, "shape": tuple(fields["shape"])}) for fields in about.pop("sites"))
    shards = tuple(Shard(**fields) for fields in about.pop("shards"))
    checksum = about.pop(_CHECKSUM, None)
    index = Index(sites=sites, shards=shards, **about)
    if not sites or (index.complete and not shards):
        raise Malformed("it has no site, or no shard")
    if _checksum({**_FORMAT.entry, **asdict(index)}) != checksum:
        raise Malformed("it is not what was written: its checksum differs")
    return index
