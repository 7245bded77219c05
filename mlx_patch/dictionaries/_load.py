"""`load`: a dictionary from a folder, whosever files these are."""

import os
from collections.abc import Iterator
from pathlib import Path

from mlx_patch import arguments
from mlx_patch.dictionaries._dictionary import Dictionary
from mlx_patch.dictionaries.dialects import Dialect, LoadChoices
from mlx_patch.errors import FileError, SelectionError, listed

_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt")


def load(folder: str | os.PathLike[str], *, layer: int | None = None, norm_factor: float | None = None) -> Dictionary:
    """A sparse autoencoder or transcoder from the files of a folder, which stay as they are.

    SAELens (`cfg.json`, `sae_weights.safetensors`), Gemma Scope (`params.npz`), Gemma Scope 2 (`config.json`,
    `params.safetensors`), Llama Scope (`hyperparams.json`), sparsify (`cfg.json`, `sae.safetensors`), and
    circuit-tracer's transcoders (`config.yaml`, `layer_0.safetensors` and so on).

    Args:
        folder: The folder of one dictionary.
        layer: Of circuit-tracer, whose folders have a file a layer: which one.
        norm_factor: Of SAELens with `expected_average_only_in`: what activations are multiplied by. The file does not
            say it.
    Returns:
        The dictionary. What is not needed of its matrices is not read.
    Raises:
        FileError: There is none, or one with pickled objects, unknown keys, or arrays that do not fit each other.
        SelectionError: `layer` is missing, or there is no such layer.
    """
    path = arguments.path("folder", folder)
    if not path.is_dir():
        raise FileError(f"`folder` must be a folder with a dictionary's files. Got {path}. Fetch it first.")
    if layer is not None:
        layer = arguments.whole_number("layer", layer, error=SelectionError)
    choices = LoadChoices(layer, _checked_factor(norm_factor))
    recognised = [dialect for dialect in _dialects() if dialect.recognises(path)]
    if len(recognised) != 1:
        raise _unrecognised(path, recognised)
    [dialect] = recognised
    if layer is not None and "layer_*.safetensors" not in dialect.files:
        raise SelectionError(f"`layer` must be left out for {dialect.name}, which has a folder a layer. Got {layer}.")
    return dialect.read(path, choices)


def _dialects() -> Iterator[Dialect]:
    for kind in Dialect.__subclasses__():
        yield kind()


def _checked_factor(norm_factor: object) -> float | None:
    if norm_factor is None:
        return None
    return arguments.number("norm_factor", norm_factor, above=0)


def _unrecognised(folder: Path, recognised: list[Dialect]) -> FileError:
    """The error for a folder of no dialect, or of two."""
    if recognised:
        names = listed(dialect.name for dialect in recognised)
        return FileError(f"`folder` must hold one dictionary. Got files of {names} in {folder}. Part them.")
    names = sorted(member.name for member in folder.iterdir())
    if pickles := [name for name in names if name.endswith(_PICKLES)]:
        return FileError(
            f"`folder` must hold safetensors or numpy arrays. Got {listed(pickles)} in {folder}: pickled files may run "
            "any code, and are never read. Convert them with safetensors, where you trust them."
        )
    below = [member.name for member in folder.iterdir() if member.is_dir()]
    inner = [name for name in sorted(below) if any(dialect.recognises(folder / name) for dialect in _dialects())]
    remedy = "See docs/dictionaries.md for the files."
    if inner:
        remedy = f"Load one of its folders: {listed(inner[:5])}."
    return FileError(
        f"`folder` must hold the files of a dictionary. Got {folder} with {listed(names[:8]) or 'nothing'}. {remedy}"
    )
