"""`Dialect`: how a folder of a dictionary is read. Final subclasses have a file of this folder."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any, ClassVar

import mlx.core as mx

from mlx_patch.dictionaries._activation import FeatureActivation
from mlx_patch.dictionaries._dictionary import Dictionary
from mlx_patch.dictionaries._normalisation import ByFactor, Normalisation, Unchanged
from mlx_patch.dictionaries._places import site_of_hook
from mlx_patch.dictionaries._stored import FeatureRows, Stored, read_whole
from mlx_patch.dictionaries._tensors import identity_of, read_tensors
from mlx_patch.errors import FileError, listed, shape_words


@dataclass(frozen=True)
class LoadChoices:
    """What a caller says of a folder besides its name.

    Attributes:
        layer: Which layer's file, where a folder has several.
        norm_factor: What activations are multiplied by, where the configuration leaves it open.
    """

    layer: int | None = None
    norm_factor: float | None = None


class Dialect(ABC):
    """A way in which dictionaries are written.

    Attributes:
        name: What it is called.
        files: The files by which a folder is recognised, as patterns.
    """

    name: ClassVar[str] = ""
    files: ClassVar[tuple[str, ...]] = ()

    def recognises(self, folder: Path) -> bool:
        """Whether a folder has the dialect's files."""
        return all(any(folder.glob(pattern)) for pattern in self.files)

    @abstractmethod
    def read(self, folder: Path, choices: LoadChoices) -> Dictionary:
        """The dictionary of a folder.

        Raises:
            FileError: It is damaged, or says something whose meaning is not known.
        """


class Tensors:
    """The arrays of a file, taken one by one. Arrays that were not taken are refused.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stored = read_tensors(path)
        self._taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def stored(self, name: str, shape: Sequence[int | None]) -> Stored:
        """An array that stays in the file.

        Args:
            name: Its name.
            shape: The shape that it must have; None is any length.
        Raises:
            FileError: It is missing, or has another shape.
        """
        self._taken.add(name)
        if name not in self._stored:
            raise FileError(f"{self.path} must hold {name!r}. It has: {listed(self._stored)}. Fetch it again.")
        stored = self._stored[name]
        if not _fits(stored.shape, shape) or stored.dtype.kind == "i":
            raise FileError(
                f"{self.path} must hold {name!r} as real numbers of shape {shape_words(shape)}. Got {stored.dtype}, "
                f"{stored.shape}. Fetch it again."
            )
        return stored

    def rows(self, name: str, n_features: int | None, width: int | None, by_column: bool = False) -> FeatureRows:
        """A matrix with a row for each feature; in the file with a column for each, where `by_column`."""
        if by_column:
            return FeatureRows(self.stored(name, (width, n_features)), by_column)
        return FeatureRows(self.stored(name, (n_features, width)))

    def array(self, name: str, *shape: int) -> mx.array:
        """A small array, in float32."""
        return read_whole(self.stored(name, shape))

    def ignore(self, name: str) -> None:
        """Mark an array as taken that says nothing of how features are computed."""
        self._taken.add(name)

    def refuse_rest(self) -> None:
        """Refuse a file with arrays that nothing has taken.

        Raises:
            FileError: There are such.
        """
        unknown = [name for name in self._stored if name not in self._taken]
        if unknown:
            raise FileError(
                f"{self.path} must hold known arrays only: one of the others may change what the features are. Got "
                f"{listed(map(repr, unknown))}. Load another kind of dictionary."
            )


def _fits(shape: Sequence[int], expected: Sequence[int | None]) -> bool:
    if len(shape) != len(expected):
        return False
    return all(size in (None, length) for size, length in zip(expected, shape, strict=True))


def make_dictionary(
    dialect: Dialect,
    tensors: Tensors,
    settings: Mapping[str, Any],
    encoder: FeatureRows,
    decoder: FeatureRows,
    activation: FeatureActivation,
    hook: str = "",
    hook_out: str | None = None,
    is_transcoder: bool = False,
    normalisation: Normalisation | None = None,
    **choices: Any,
) -> Dictionary:
    """A dictionary of what a dialect has read. All arrays of the file must have been taken by now.

    Raises:
        FileError: An array is left over.
    """
    tensors.refuse_rest()
    if hook_out is None:
        hook_out = hook
    return Dictionary(
        identity=identity_of(tensors.path, settings),
        site=site_of_hook(hook),
        site_out=site_of_hook(hook_out),
        folder=tensors.path.parent,
        dialect=dialect.name,
        hook=hook,
        hook_out=hook_out,
        is_transcoder=is_transcoder,
        encoder=encoder,
        decoder=decoder,
        activation=activation,
        normalisation=normalisation or Unchanged(),
        settings=dict(settings),
        **choices,
    )


def factor_of(choices: LoadChoices, d_in: int, path: Path) -> ByFactor:
    """The factor that a caller names, of activations that were scaled to a mean length of `sqrt(d_in)` in training.

    Raises:
        FileError: None is named.
    """
    if choices.norm_factor is None:
        raise FileError(
            f"{path} says that activations were scaled to a mean length of sqrt({d_in}) = {sqrt(d_in):.4g}, but not by "
            "what. Pass `norm_factor=`: that length divided by the mean length over the training data."
        )
    return ByFactor(choices.norm_factor, choices.norm_factor)


def refuse_factor(choices: LoadChoices, path: Path) -> None:
    """Refuse a factor where the configuration leaves nothing open.

    Raises:
        FileError: There is one.
    """
    if choices.norm_factor is not None:
        raise FileError(
            f"`norm_factor` must be left out: {path} says how activations are normalised. Got {choices.norm_factor}."
        )


def checked_k(k: int, n_features: int, path: Path) -> int:
    """A number of features that stay.

    Raises:
        FileError: There are not as many.
    """
    if not 1 <= k <= n_features:
        raise FileError(f"{path} must have a k of 1 to {n_features}. Got {k}. Fetch it again.")
    return k
